"""Lambda's documented API errors, each with its HTTP status and code."""

from typing import Any


class ApiError(Exception):
    """An error answer of the API.

    `suggestion` is sent unless it is None; the API's document requires it for some codes.
    """

    def __init__(self, status: int, code: str, message: str, suggestion: str | None = None) -> None:
        super().__init__(status, code, message, suggestion)
        self.status = status
        self.code = code
        self.message = message
        self.suggestion = suggestion

    def to_json(self) -> dict[str, Any]:
        """The `{"error": ...}` envelope."""
        error = {"code": self.code, "message": self.message}
        if self.suggestion is not None:
            error["suggestion"] = self.suggestion
        return {"error": error}


def invalid_parameters(message: str) -> ApiError:
    """400: the request does not fit its schema, or asks for something impossible."""
    return ApiError(400, "global/invalid-parameters", message)


def invalid_api_key() -> ApiError:
    """401: missing, wrong or revoked key."""
    return ApiError(
        401,
        "global/invalid-api-key",
        "API key was invalid, expired, or deleted.",
        "Check your API key or create a new one, then try again.",
    )


def account_inactive() -> ApiError:
    """403 for every call of a closed account."""
    return ApiError(
        403,
        "global/account-inactive",
        "Your account is inactive.",
        "Verify your email address and payment method.",
    )


def not_found() -> ApiError:
    """404: no such path, or no such SSH key."""
    return ApiError(404, "global/not-found", "The requested resource was not found.")


def does_not_exist(what: str, status: int = 404) -> ApiError:
    """404 (400 for launches, where so configured): no such object."""
    return ApiError(
        status,
        "global/object-does-not-exist",
        f"{what} does not exist.",
        "Check the name or ID and try again.",
    )


def insufficient_capacity() -> ApiError:
    """400: no capacity for this type in this region."""
    return ApiError(
        400,
        "instance-operations/launch/insufficient-capacity",
        "Not enough capacity to fulfill launch request.",
        "Choose an instance type with more availability, or try again later.",
    )


def wrong_region(file_system: str, region: str) -> ApiError:
    """400: the file system is of another region."""
    return ApiError(
        400,
        "instance-operations/launch/file-system-in-wrong-region",
        f"Filesystem {file_system} is not in region {region}.",
    )


def quota_exceeded(what: str) -> ApiError:
    """400: the account's quota is used up."""
    return ApiError(
        400,
        "global/quota-exceeded",
        f"Quota exceeded: {what}.",
        "Contact Support to increase your quota.",
    )


def duplicate(what: str) -> ApiError:
    """400: the name is in use."""
    return ApiError(400, "global/duplicate", f"{what} already exists.")


def file_system_in_use(name: str) -> ApiError:
    """400: mounted file systems cannot be deleted."""
    return ApiError(400, "filesystems/filesystem-in-use", f"Filesystem {name} is in use.")


def firewall_ruleset_in_use() -> ApiError:
    """400: attached rulesets cannot be deleted."""
    return ApiError(
        400,
        "firewall-rulesets/firewall-ruleset-in-use",
        "Firewall ruleset is in use by one or more instances.",
        "Terminate all instances that are using the ruleset before deleting it.",
    )


def conflict(message: str) -> ApiError:
    """409: the instance is not in a state for this operation."""
    return ApiError(409, "global/conflict", message)
