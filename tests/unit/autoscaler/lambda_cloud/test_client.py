import logging
import traceback

import pytest
import requests

from autoscaler.domain import Lane, LaunchRequest, Status
from autoscaler.errors import (
    AuthError,
    AutoscalerError,
    ConfigError,
    NotFoundError,
    ProtocolError,
    RateLimitedError,
    UnavailableError,
)
from autoscaler.events import EventLog
from autoscaler.lambda_cloud.transport import CONNECT_TIMEOUT_S, MAX_ATTEMPTS, READ_TIMEOUT_S
from tests.unit.autoscaler.lambda_rig import (
    SECRET,
    URL,
    Scripted,
    error_body,
    instance_json,
    scripted,
)

BUSY = Scripted(503, error_body("global/internal-error"))
LAUNCH = LaunchRequest("us-west-1", "gpu_1x_a10", "k", "ray-demo-w-0", {"ray-node-type": "worker"})


def listing(*ids: str, **extra: object) -> Scripted:
    return Scripted(body={"data": [instance_json(i) for i in ids], **extra})


def test_an_instance_arrives_whole_and_without_its_jupyter_token():
    body = instance_json(
        "abc",
        status="booting",
        name="n",
        ip="198.51.100.2",
        jupyter_token="topsecret",
        jupyter_url="https://j.example/?token=topsecret",
        tags=[{"key": "ray-node-type", "value": "head"}],
    )
    wired = scripted(Scripted(body={"data": body}))
    instance = wired.client.get_instance("abc")
    assert (instance.id, instance.status, instance.region) == ("abc", Status.BOOTING, "us-west-1")
    assert (instance.ip, instance.private_ip) == ("198.51.100.2", None)
    assert instance.tags == {"ray-node-type": "head"}
    assert instance.instance_type.price_cents_per_hour == 129
    assert "topsecret" not in repr(instance)
    assert wired.adapter.calls == ["GET /instances/abc"]


def test_a_status_we_do_not_know_is_said_once(caplog):
    answer = Scripted(body={"data": [instance_json(status="hibernating-x")]})
    wired = scripted(answer, answer)
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            assert wired.client.list_instances()[0].status is Status.UNKNOWN
    assert caplog.text.count("hibernating-x") == 1


@pytest.mark.parametrize("order", [("active", "terminated"), ("terminated", "active")])
def test_a_machine_that_is_listed_twice_lives_if_one_record_says_so(order):
    listed = [instance_json("a", status=status) for status in order]
    wired = scripted(Scripted(body={"data": [*listed, instance_json("b")]}))
    found = {each.id: each.status for each in wired.client.list_instances()}
    assert found == {"a": Status.ACTIVE, "b": Status.ACTIVE}


def test_every_call_has_timeouts_the_key_and_no_redirects():
    wired = scripted(listing(), Scripted(body={"data": {"instance_ids": ["i1"]}}))
    wired.client.list_instances()
    wired.client.launch(LAUNCH)
    assert wired.adapter.timeouts == [(CONNECT_TIMEOUT_S, READ_TIMEOUT_S)] * 2
    for request in wired.adapter.requests:
        assert request.headers["Authorization"] == f"Bearer {SECRET}"
        assert SECRET not in (request.url or "")


def test_a_redirect_gets_neither_the_key_nor_a_retry():
    wired = scripted(Scripted(302, {}, headers={"Location": "https://evil.example/"}))
    with pytest.raises(ConfigError, match="LAMBDA_API_URL.*redirect"):
        wired.client.list_instances()
    assert len(wired.adapter.calls) == 1


def test_netrc_cannot_replace_the_key(tmp_path, monkeypatch):
    netrc = tmp_path / "netrc"
    netrc.write_text("machine lambda.test login a password b\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    wired = scripted(listing())
    wired.client.list_instances()
    assert wired.adapter.requests[0].headers["Authorization"] == f"Bearer {SECRET}"


@pytest.mark.parametrize(
    "answer",
    [
        BUSY,
        Scripted(429, error_body("global/rate-limited")),
        Scripted(502, raw=b"<html>bad gateway</html>"),
        Scripted(200, raw=b'{"data": [{"id": "x"'),
        Scripted(error=requests.ConnectionError("reset by peer")),
        Scripted(error=requests.ReadTimeout("slow")),
    ],
)
def test_reads_are_retried_a_bounded_number_of_times(answer):
    wired = scripted(answer, answer, listing("a"))
    assert [i.id for i in wired.client.list_instances()] == ["a"]
    wired = scripted(*[answer] * MAX_ATTEMPTS)
    with pytest.raises(UnavailableError):
        wired.client.list_instances()
    assert wired.rate_limit.waits == [Lane.GENERAL] * MAX_ATTEMPTS


def test_pauses_double_and_a_429_leaves_the_waiting_to_the_rate_limit():
    limited = Scripted(429, headers={"Retry-After": "7"}, raw=b"")
    wired = scripted(BUSY, BUSY, limited, listing())
    wired.client.list_instances()
    assert wired.sleeps == [1.0, 2.0, 0.0]
    assert wired.rate_limit.back_offs == [(Lane.GENERAL, 7.0)]


def test_retries_are_told_with_code_and_next_try_one_of_a_kind_a_minute(tmp_path, caplog):
    now_s = [1_800_000_000.0]
    log = EventLog(tmp_path / "events.jsonl", lambda: now_s[0])
    limited = Scripted(429, error_body("global/rate-limited"), headers={"Retry-After": "7"})
    wired = scripted(BUSY, BUSY, limited, listing(), BUSY, listing(), events=log)
    with caplog.at_level(logging.WARNING):
        wired.client.list_instances()
        now_s[0] += 61.0
        wired.client.list_instances()
    told = [(e["request"], e["code"], e["next_try"], e.get("left_out")) for e in log.tail(9)]
    assert told == [
        ("GET /instances", "global/internal-error", "2027-01-15T08:00:01Z", None),
        ("GET /instances", "global/rate-limited", "1970-01-01T00:00:07Z", None),  # the rate limit's
        ("GET /instances", "global/internal-error", "2027-01-15T08:01:02Z", 1),
    ]
    assert caplog.text.count("sent again at 2027-") == 2


def test_a_long_retry_after_is_the_callers_to_decide():
    wired = scripted(Scripted(429, headers={"Retry-After": "600"}, raw=b""))
    with pytest.raises(RateLimitedError) as caught:
        wired.client.list_instances()
    assert caught.value.retry_after_s == 600
    assert wired.sleeps == []


@pytest.mark.parametrize(
    "answer",
    [
        BUSY,
        Scripted(429, error_body("global/rate-limited")),
        Scripted(409, error_body("global/internal-error")),
        Scripted(error=requests.ConnectionError("reset by peer")),
        Scripted(error=requests.ReadTimeout("slow")),
        Scripted(200, raw=b"not json"),
        Scripted(200, {"data": {"instance_ids": []}}),
        Scripted(200, {"data": {"instance_ids": ["a", "b"]}}),
        Scripted(302, {}),
    ],
)
def test_a_launch_is_sent_once_whatever_comes_back(answer):
    wired = scripted(answer, answer)
    with pytest.raises(AutoscalerError) as caught:
        wired.client.launch(LAUNCH)
    assert len(wired.adapter.calls) == 1
    assert caught.value.not_executed == (answer.status == 429)


def test_a_launch_body_leaves_out_what_is_not_given():
    wired = scripted(Scripted(body={"data": {"instance_ids": ["i7"]}}))
    assert wired.client.launch(LAUNCH) == "i7"
    assert wired.adapter.bodies() == [
        {
            "region_name": "us-west-1",
            "instance_type_name": "gpu_1x_a10",
            "ssh_key_names": ["k"],
            "name": "ray-demo-w-0",
            "tags": [{"key": "ray-node-type", "value": "worker"}],
        }
    ]


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (LaunchRequest("r", "t", "k", "n" * 65), "name"),
        (LaunchRequest("r", "t", "k", "n", hostname="-x"), "hostname"),
        (LaunchRequest("r", "t", "", "n"), "ssh_key_name"),
        (LaunchRequest("r", "t", "k", "n", {"Upper": "x"}), "tag 'Upper'"),
        (LaunchRequest("r", "t", "k", "n", {"a" * 56: "x"}), "tag"),
        (LaunchRequest("r", "t", "k", "n", {"key": "v" * 129}), "tag 'key'"),
        (LaunchRequest("r", "t", "k", "n", user_data="x" * 1_000_001), "user_data"),
    ],
)
def test_what_lambda_would_refuse_is_not_sent(request_, field):
    wired = scripted()
    with pytest.raises(ConfigError, match=field):
        wired.client.launch(request_)
    assert wired.adapter.calls == []


def test_terminate_is_repeated():
    done = Scripted(body={"data": {"terminated_instances": [instance_json(status="terminating")]}})
    wired = scripted(BUSY, done)
    assert wired.client.terminate(["i1"])[0].status is Status.TERMINATING
    assert wired.rate_limit.waits == [Lane.TERMINATE] * 2
    assert scripted().client.terminate([]) == ()


def test_pages_are_joined_and_doubles_dropped():
    wired = scripted(listing("a", "b", page_token="p2"), listing("b", "c", page_token=None))
    assert [i.id for i in wired.client.list_instances()] == ["a", "b", "c"]
    assert wired.adapter.calls[1] == "GET /instances?page_token=p2"


def test_a_list_is_whole_or_an_error():
    second_page_gone = [listing("a", page_token="p2"), *[BUSY] * MAX_ATTEMPTS]
    for answers in (
        second_page_gone,
        [listing("a", page_token="p"), listing("b", page_token="p")],
        [Scripted(body={})],
        [Scripted(body={"data": None})],
        [Scripted(body={"data": {"a": 1}})],
        [Scripted(body={"data": [instance_json(), {"status": "active"}]})],
        [Scripted(body={"data": [instance_json(), "no record"]})],
        [Scripted(body={"data": [instance_json(id="")]})],
    ):
        with pytest.raises(UnavailableError):
            scripted(*answers).client.list_instances()


def test_a_broken_field_is_named_by_its_path():
    body = {"data": [{"id": "k", "name": "n", "public_key": "p"}, {"id": "l", "name": 5}]}
    with pytest.raises(ProtocolError, match=r"data\[1\]\.name"):
        scripted(Scripted(body=body)).client.list_ssh_keys()


def test_a_field_that_cannot_be_read_is_not_shown():
    wired = scripted(Scripted(body={"data": {"id": ["topsecret"], "jupyter_token": "topsecret"}}))
    with pytest.raises(ProtocolError, match=r"GET /instances/i1\.data\.id") as caught:
        wired.client.get_instance("i1")
    shown = "".join(traceback.format_exception(caught.value))
    assert "topsecret" not in shown and "\n" not in str(caught.value)


def test_a_price_that_is_no_whole_number_is_unknown():
    for price in (None, -1, "129", 1.5, True):
        body = instance_json()
        body["instance_type"]["price_cents_per_hour"] = price
        (instance,) = scripted(Scripted(body={"data": [body]})).client.list_instances()
        assert instance.instance_type.price_cents_per_hour is None


@pytest.mark.parametrize("bad", ["", "..", "a/b", "../ssh-keys", "a?b", "-x"])
def test_only_ids_go_into_paths(bad):
    wired = scripted()
    with pytest.raises(ConfigError, match="id"):
        wired.client.get_instance(bad)
    assert wired.adapter.calls == []


def test_an_instance_that_lambda_has_forgotten_is_not_found():
    with pytest.raises(NotFoundError):
        scripted(Scripted(404, error_body("global/object-does-not-exist"))).client.get_instance("x")


def test_the_key_is_in_no_error_log_or_traceback(caplog):
    echo = Scripted(401, error_body("global/invalid-api-key", f"key {SECRET} is unknown"))
    reset = Scripted(error=requests.ConnectionError(f"https://{SECRET}@x reset"))
    with caplog.at_level(logging.DEBUG):
        for answers in ([echo], [reset] * MAX_ATTEMPTS):
            wired = scripted(*answers)
            with pytest.raises((AuthError, UnavailableError)) as caught:
                wired.client.list_instances()
            error = caught.value
            shown = "".join(traceback.format_exception(error)) + repr(error) + repr(vars(error))
            assert SECRET not in shown
            assert error.__cause__ is None
    assert SECRET not in caplog.text


def test_an_endless_answer_is_cut_off():
    moments = iter(float(second) for second in range(0, 10_000, 20))
    answer = Scripted(200, raw=b" " * 1024 * 1024)
    wired = scripted(*[answer] * MAX_ATTEMPTS, clock=lambda: next(moments))
    with pytest.raises(UnavailableError, match="no full answer"):
        wired.client.list_instances()


def test_the_scripted_url_is_what_is_called():
    wired = scripted(Scripted(body={"data": {}}))
    assert wired.client.list_instance_types() == ()
    assert (wired.adapter.requests[0].url or "") == f"{URL}/instance-types"
