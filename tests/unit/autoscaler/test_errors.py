import pickle
import re

import pytest

from autoscaler import errors


def subclasses(cls: type) -> set[type]:
    found = set(cls.__subclasses__())
    return found | {deeper for one in found for deeper in subclasses(one)}


def test_the_tree_in_the_docstring_is_the_tree():
    named = re.findall(r"[├└]── (\w+)", errors.__doc__ or "")
    assert sorted(named) == sorted(cls.__name__ for cls in subclasses(errors.AutoscalerError))


@pytest.mark.parametrize(
    ("cls", "exit_code"),
    [
        (errors.ConfigError, 2),
        (errors.AuthError, 2),
        (errors.AccountError, 2),
        (errors.BudgetError, 3),
        (errors.CapacityError, 3),
        (errors.QuotaError, 3),
        (errors.TeardownUnverifiedError, 1),
        (errors.AmbiguousLaunchError, 1),
        (errors.ProtocolError, 1),
    ],
)
def test_exit_codes(cls, exit_code):
    assert cls("x").exit_code == exit_code


@pytest.mark.parametrize(
    ("status", "code", "cls", "not_executed"),
    [
        (400, "instance-operations/launch/insufficient-capacity", errors.CapacityError, True),
        (400, "instance-operations/launch/file-system-in-wrong-region", errors.ConfigError, True),
        (400, "global/quota-exceeded", errors.QuotaError, True),
        (400, "global/invalid-parameters", errors.ConfigError, True),
        (401, "global/invalid-api-key", errors.AuthError, True),
        (403, "global/account-inactive", errors.AccountError, True),
        (404, "global/object-does-not-exist", errors.NotFoundError, True),
        (429, None, errors.RateLimitedError, True),
        (429, "global/quota-exceeded", errors.RateLimitedError, True),
        # Lambda documents its internal error with status 409.
        (409, "global/internal-error", errors.UnavailableError, False),
        (409, "global/conflict", errors.ConflictError, False),
        (400, "provider/internal-unavailable", errors.UnavailableError, False),
        (400, "global/unknown", errors.ConflictError, False),
        (500, None, errors.UnavailableError, False),
        (504, "global/internal-error", errors.UnavailableError, False),
        # A status without Lambda's envelope is a proxy's: it proves nothing.
        (404, None, errors.NotFoundError, False),
        (401, None, errors.AuthError, False),
        (418, "global/brand-new", errors.ProtocolError, False),
    ],
)
def test_answers_map_to_classes_and_to_what_they_prove(status, code, cls, not_executed):
    error = errors.from_answer(status, code, "text", "POST /x")
    assert type(error) is cls
    assert (error.code, error.status, error.not_executed) == (code, status, not_executed)


def test_a_message_is_one_bounded_line():
    error = errors.from_answer(400, "global/invalid-parameters", "a\nb\n" + "c" * 9999, "POST /x")
    assert "\n" not in str(error) and len(str(error)) <= 500
    assert str(error).startswith("POST /x: a b c")


def test_errors_survive_pickling():
    error = pickle.loads(pickle.dumps(errors.from_answer(429, "c", "m", "GET /x")))
    assert isinstance(error, errors.RateLimitedError)
    assert (error.code, error.status, error.not_executed) == ("c", 429, True)
