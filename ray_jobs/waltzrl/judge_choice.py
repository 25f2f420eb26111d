"""Which judge a run names: `rules`, `FORM@URL@MODEL` behind a server, or `FORM@local:MODEL`.

    rules                                               the embedded world's own
    wildguard@http://judge:8000/v1@allenai/wildguard    an OpenAI-compatible server
    llama-guard@http://judge:8000/v1@meta-llama/Llama-Guard-3-8B
    wildguard@local:/models/wildguard                   on the workers' own devices

The server's key, if it wants one, is in the environment variable WALTZRL_JUDGE_API_KEY of the
workers.
"""

import os

from data.errors import ConfigError
from ray_jobs.waltzrl.judges.forms import FORMS
from ray_jobs.waltzrl.judges.judges import Judge, rule_judge
from ray_jobs.waltzrl.judges.local import PREFIX, local_judge
from ray_jobs.waltzrl.judges.server import HTTPJudge

API_KEY = "WALTZRL_JUDGE_API_KEY"


def open_judge(field: str, name: str) -> Judge:
    """The judge called `name`, the value of the config's `field`.

    Raises:
        ConfigError: it is not of one of the module's forms.
    """
    if name == "rules":
        return rule_judge
    form, _, server = name.partition("@")
    if form in FORMS and server.startswith(PREFIX):
        return local_judge(field, server, FORMS[form])
    url, _, model = server.partition("@")
    if form not in FORMS or not url.startswith(("http://", "https://")) or not model:
        raise ConfigError(
            field,
            f"{name!r} is neither rules nor FORM@URL@MODEL nor FORM@local:MODEL with FORM "
            f"{' or '.join(FORMS)}",
        )
    return HTTPJudge(url, model, FORMS[form], os.environ.get(API_KEY))
