"""What endpoints get handed: settings and database of the app, and the bounds of a page."""

from typing import Annotated

from fastapi import Depends, Query, Request

from service.database import Database
from service.settings import Settings


def _settings(request: Request) -> Settings:
    settings: Settings = request.app.state.settings
    return settings


def _database(request: Request) -> Database:
    database: Database = request.app.state.database
    return database


AppSettings = Annotated[Settings, Depends(_settings)]
AppDatabase = Annotated[Database, Depends(_database)]
#: how many entries a page holds
Limit = Annotated[int, Query(ge=1, le=1000)]
