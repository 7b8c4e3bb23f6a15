"""The expressions of deploy/monitoring are PromQL over metrics and labels that a live server has."""

import json
import re
import urllib.request

import promql_parser
import pytest
import yaml
from processes import ROOT, clean_environment, running
from prometheus_client.parser import text_string_to_metric_families
from waiting import PATIENCE_SECONDS

FOLDER = ROOT / "deploy" / "monitoring"
# Prometheus itself adds these to what it scrapes.
OF_TARGETS = {"job", "instance"}
# Labels all of whose values are there from the start.
COMPLETE = {"state", "reason"}
Series = dict[str, dict[str, set[str]]]
"""Metrics, their labels, and the values of these."""
RULES = [rule for group in yaml.safe_load((FOLDER / "alerts.yaml").read_text())["groups"] for rule in group["rules"]]
DASHBOARD = json.loads((FOLDER / "dashboard.json").read_text())


def expressions() -> list[str]:
    """Those of rules, panels and variables, with Grafana's variables replaced as Grafana does."""
    panels = [target["expr"] for panel in DASHBOARD["panels"] for target in panel.get("targets", ())]
    queries = [each["query"]["query"] for each in DASHBOARD["templating"]["list"] if each["type"] == "query"]
    watched = [re.fullmatch(r"label_values\((.*), \w+\)", query)[1] for query in queries]
    found = [*panels, *watched, *(rule["expr"] for rule in RULES)]
    return [re.sub(r"\$\w+", ".*", each.replace("$__rate_interval", "5m")) for each in found]


def selectors(text: str) -> list[promql_parser.VectorSelector]:
    """The selectors of an expression, which must be one."""
    found: list[promql_parser.VectorSelector] = []

    def visit(part: object) -> None:
        if isinstance(part, promql_parser.VectorSelector):
            found.append(part)

    promql_parser.walk(promql_parser.parse(text), visit)
    assert found, text
    return found


@pytest.fixture(scope="module")
def series(tmp_path_factory: pytest.TempPathFactory) -> Series:
    """Of a server that has answered a request with a key."""
    keys = tmp_path_factory.mktemp("keys") / "keys.txt"
    keys.write_text("secret name=search\n")
    keys.chmod(0o600)
    with running(
        ["--model", "all-MiniLM-L6-v2"], env=clean_environment(EMB_PROVIDER_AUTH_KEYS_FILE=str(keys))
    ) as server:
        server.wait_until_ready()
        body = json.dumps({"model": "all-MiniLM-L6-v2", "input": "a"}).encode()
        request = urllib.request.Request(f"{server.url}/v1/embeddings", body, {"authorization": "Bearer secret"})
        with urllib.request.urlopen(request, timeout=PATIENCE_SECONDS) as response:
            assert response.status == 200
        families = list(text_string_to_metric_families("\n".join(server.metrics()) + "\n"))
    found: Series = {}
    for sample in (sample for family in families for sample in family.samples):
        values = found.setdefault(sample.name, {})
        for label, value in sample.labels.items():
            values.setdefault(label, set()).add(value)
    return found


def test_every_expression_asks_for_metrics_and_labels_that_there_are(series: Series) -> None:
    for text in expressions():
        known: set[str] = set(OF_TARGETS)
        for selector in selectors(text):
            assert selector.name in series, f"{text}: no metric {selector.name}"
            labels = series[selector.name]
            known |= labels.keys()
            for matcher in selector.matchers.matchers:
                assert matcher.name in labels.keys() | OF_TARGETS, f"{text}: no label {matcher.name}"
                if matcher.name in COMPLETE:
                    assert {*matcher.value.split("|")} <= labels[matcher.name], f"{text}: {matcher.value}"
        for listed in re.findall(r"(?:by|without|on|ignoring) \(([^)]*)\)", text):
            assert {each.strip() for each in listed.split(",")} <= known, text


def test_probes_and_scrapes_are_counted_by_no_expression() -> None:
    # Readiness is 503 while models load, and probes come oftener than requests on a quiet service.
    for text in expressions():
        for selector in selectors(text):
            if selector.name.startswith(("emb_provider_requests_total", "emb_provider_request_seconds")):
                assert [(each.name, each.value) for each in selector.matchers.matchers if each.name == "task"] == [
                    ("task", "")
                ], text


def test_every_alert_is_in_the_runbook() -> None:
    page = (ROOT / "docs" / "how-to" / "operations.md").read_text()
    headings = {
        re.sub(r"[^a-z -]", "", each.lower()).replace(" ", "-") for each in re.findall(r"^### (.*)", page, re.MULTILINE)
    }
    assert {rule["annotations"]["runbook"] for rule in RULES} <= headings


def test_names_of_alerts_and_numbers_of_panels_are_given_once() -> None:
    for given in ([rule["alert"] for rule in RULES], [panel["id"] for panel in DASHBOARD["panels"]]):
        assert len(given) == len(set(given))
