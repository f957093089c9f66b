"""The JSON of docs/guides/kvbm.md is what the parts of it take."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path
from typing import Any

import pytest

from memkv_nixl.cli._config_dynamo import disaggregated
from memkv_nixl.cli._config_vllm import vllm_transfer_config
from memkv_nixl.kvbm._settings import tier_settings

NODES = "10.0.0.7:9900,10.0.0.8:9900"


@pytest.fixture
def guide(repo: Path) -> dict[str, dict[str, Any]]:
    """What stands below each mark."""
    text = (repo / "docs/guides/kvbm.md").read_text("utf-8")
    blocks = re.findall(r"<!-- ([^\n]+) -->\n```json\n(.+?)```", text, re.DOTALL)
    return {name: json.loads(said) for name, said in blocks}


def test_prefill_and_decode_is_what_the_command_prints(guide: dict[str, dict[str, Any]]) -> None:
    assert guide["prefill and decode"] == disaggregated(
        vllm_transfer_config({"nodes": NODES}, 64 << 30)
    )


def test_beside_kvbm_is_the_same_tier_under_the_connector_that_chooses(
    guide: dict[str, dict[str, Any]], repo: Path
) -> None:
    said = guide["beside KVBM"]
    block_manager, tier = said["kv_connector_extra_config"]["connectors"]
    expected = vllm_transfer_config({"nodes": NODES}, 64 << 30)
    assert said["kv_load_failure_policy"] == expected.pop("kv_load_failure_policy")
    assert tier == expected
    (settings,) = tier["kv_connector_extra_config"]["secondary_tiers"]
    given = {name: settings[name] for name in settings.keys() - {"type", "module_path"}}
    assert tier_settings(given, environment={}).nodes == tuple(NODES.split(","))
    assert block_manager["kv_connector"] == "DynamoConnector"
    # vLLM is not here to import it; the module binds the name that vLLM will look for in it.
    module = repo / (said["kv_connector_module_path"].replace(".", "/") + ".py")
    bound = [
        target.id
        for node in ast.parse(module.read_text("utf-8")).body
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    ]
    assert said["kv_connector"] in bound
