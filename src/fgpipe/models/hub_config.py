"""A model's `config.json` as the hub gives it to one token: the smallest question that tells who may have it."""

from __future__ import annotations

from typing import Any, Literal

from fgpipe.errors import ModelError
from fgpipe.models import base

Reason = Literal["network", "token", "licence", "model", "revision", "hub"]
"""Why not: no way to the hub, a token it does not know, a licence not accepted, no such model (or a private one), no
such commit, or the hub's own fault."""


class HubRefusalError(ModelError):
    """The hub did not give the file; `reason` says why. Its text never holds the token."""

    def __init__(self, model_id: str, reason: Reason, found: str) -> None:
        super().__init__(
            f"{model_id}: {found}", hint="a folder here needs no hub: python -m fgpipe download fetches one"
        )
        self.reason = reason


def read_config(model_id: str, revision: str | None, *, token: str | None) -> dict[str, Any]:
    """The config.json of the model `model_id` at `revision` (None: the default branch), asked for once.

    Raises:
        HubRefusalError: the hub does not give it, or did not answer within `base.HUB_TIMEOUT_S`.
    """
    base.quiet_hub()
    from httpx import HTTPError
    from huggingface_hub import errors, get_session, hf_hub_url
    from huggingface_hub.utils import build_hf_headers, hf_raise_for_status  # type: ignore[attr-defined]

    at = f" at {revision}" if revision else ""
    try:
        url = hf_hub_url(model_id, "config.json", revision=revision)
        # httpx leaves the token out when it is sent on to another host.
        headers = build_hf_headers(token=token or False)
        answer = get_session().get(url, headers=headers, follow_redirects=True, timeout=base.HUB_TIMEOUT_S)
        if answer.status_code == 401 and token and not answer.headers.get("X-Error-Code"):
            raise HubRefusalError(model_id, "token", "the hub does not know the token")
        hf_raise_for_status(answer)
        found = answer.json()
        if not isinstance(found, dict):
            raise ValueError(type(found).__name__)
    except errors.HFValidationError:
        raise HubRefusalError(model_id, "model", "got no hub id, expected organisation/model") from None
    except errors.GatedRepoError:
        found_out = "the token's account has not accepted its licence" if token else "it wants a token"
        raise HubRefusalError(model_id, "licence", f"gated: {found_out}") from None
    except errors.RevisionNotFoundError:
        raise HubRefusalError(model_id, "revision", f"the hub has no commit{at or ' of it'}") from None
    except errors.RepositoryNotFoundError:
        raise HubRefusalError(model_id, "model", "the hub has no such model, or it is private") from None
    except errors.HfHubHTTPError as error:
        found_status = error.response.status_code
        reason: Reason = "licence" if found_status in (401, 403) else "hub"
        raise HubRefusalError(model_id, reason, f"the hub answered {found_status} for config.json{at}") from None
    except (HTTPError, OSError) as error:
        raise HubRefusalError(model_id, "network", f"the hub cannot be reached ({type(error).__name__})") from None
    except ValueError:
        raise HubRefusalError(model_id, "hub", "got no JSON object for config.json from the hub") from None
    return found
