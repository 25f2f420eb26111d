import pickle

import pytest

from autoscaler.domain import ApiKey
from autoscaler.errors import AuthError, ConfigError
from autoscaler.lambda_cloud.credentials import DEFAULT_API_URL, api_url, load_api_key


def test_the_key_comes_from_the_environment_first(tmp_path):
    file = tmp_path / "api_key"
    file.write_text("from-file\n")
    file.chmod(0o600)
    assert load_api_key({"LAMBDA_API_KEY": " from-env\n"}, file).reveal() == "from-env"
    assert load_api_key({}, file).reveal() == "from-file"


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o700])
def test_a_key_file_that_others_may_read_is_refused(tmp_path, mode):
    file = tmp_path / "api_key"
    file.write_text("secret-in-file")
    file.chmod(mode)
    with pytest.raises(AuthError, match=f"mode {mode:04o}.*chmod 600") as caught:
        load_api_key({}, file)
    assert "secret-in-file" not in str(caught.value)


def test_no_key_names_both_ways_to_give_one(tmp_path):
    with pytest.raises(AuthError, match="LAMBDA_API_KEY.*api_key.*0600"):
        load_api_key({}, tmp_path / "api_key")


@pytest.mark.parametrize("value", ["", "two words", "line\nbreak", "ключ"])
def test_a_key_that_cannot_be_a_header_is_refused_unshown(value):
    with pytest.raises(AuthError) as caught:
        ApiKey(value)
    assert not value or value not in str(caught.value)


def test_the_key_does_not_print_or_pickle():
    key = ApiKey("abcdefgh12345678")
    shown = f"{key} {key!r} {key.account} {vars(type(key))}"
    assert "abcdefgh12345678" not in shown
    with pytest.raises(TypeError):
        pickle.dumps(key)


@pytest.mark.parametrize(
    "url",
    [
        "http://example.com/api/v1",
        "ftp://x/",
        "cloud.lambda.ai",
        "https://u:p@x/",
        "https://x/?a=b",
    ],
)
def test_addresses_that_would_give_the_key_away_are_refused(url):
    with pytest.raises(ConfigError, match="LAMBDA_API_URL"):
        api_url({"LAMBDA_API_URL": url})


def test_addresses():
    assert api_url({}) == DEFAULT_API_URL
    assert api_url({"LAMBDA_API_URL": "http://10.77.0.1:8911/api/v1/"}).endswith(":8911/api/v1")
    assert api_url({"LAMBDA_API_URL": "http://localhost:1/api/v1"}) == "http://localhost:1/api/v1"


def test_the_address_comes_from_the_environment_then_the_file_then_lambda(tmp_path):
    file = tmp_path / "api_url"
    assert api_url({}, file) == DEFAULT_API_URL
    file.write_text("http://10.0.0.1:8000/api/v1/\n")
    assert api_url({}, file) == "http://10.0.0.1:8000/api/v1"
    assert api_url({"LAMBDA_API_URL": "https://other.test"}, file) == "https://other.test"
    file.write_text("http://example.com")
    with pytest.raises(ConfigError, match="unencrypted"):
        api_url({}, file)
