"""The job of `temper demo`: two experts and an aligned model of the tiny zoo, merged."""

from service.demo.zoo import Zoo
from service.jobs.schemas import MergeJobRequest


def demo_job(zoo: Zoo, *, name: str = "demo") -> MergeJobRequest:
    """A job that two CPU cores finish in a few minutes; everything not named here is the default."""
    return MergeJobRequest.model_validate(
        {
            "name": name,
            "base": str(zoo.base),
            "models": {
                **{
                    topic: {"path": str(path), "role": "domain", "topics": [topic]}
                    for topic, path in zoo.experts.items()
                },
                "chat": {"path": str(zoo.aligned), "role": "aligned"},
            },
            "data": {
                "safety": {"taxonomy": "toy", "count": 400},
                "domain": {"count": 720},
                "max_tokens": 48,
                "temperature": 1.0,
            },
            "merge": {"bounds": [0.0, 1.5]},
            "search": {"trials": 48, "finalists": 6},
            "select": {
                "maximize": "domains",
                "subject_to": {"refusal": {"at_least": 0.97, "of": "chat"}, "compliance": {"at_least": 0.95}},
            },
        }
    )
