"""examples/flink: the image and the manifest name what there is, fit each other, and fit the operator's schema."""

from __future__ import annotations

import re
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from ruamel.yaml import YAML
from servers import Needs, maven_jars

from tocsin.cli import main

ROOT = Path(__file__).parent.parent.parent
FOLDER = ROOT / "examples" / "flink"
CONTAINERFILE = (FOLDER / "Containerfile").read_text()
ITEMS = YAML(typ="safe").load((FOLDER / "kubernetes.yaml").read_text())["items"]
CLUSTER, *PODS = ITEMS
VERSION = "2.3.0"


def test_the_image_has_the_flink_that_the_package_wants() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    (wanted,) = extras["flink"]
    least, below = re.fullmatch(r"apache-flink>=(\d+\.\d+),<(\d+)", wanted).groups()  # type: ignore[union-attr]
    assert VERSION.startswith(f"{least}.")
    assert int(VERSION.partition(".")[0]) < int(below)
    assert set(re.findall(r"flink(?:-python-|==|:)(\d+\.\d+\.\d+)", CONTAINERFILE)) == {VERSION}
    assert CLUSTER["spec"]["flinkVersion"] == "v" + "_".join(VERSION.split(".")[:2])
    named = re.search(r"tocsin\[(.*?)\]", CONTAINERFILE)
    assert named is not None
    assert set(named[1].split(",")) <= extras.keys()


def test_no_root_and_no_latest() -> None:
    """What hadolint would ask for: pinned images, no root at the end, lists of packages removed in the same layer."""
    images = re.findall(r"^FROM (\S+)|--from=(\S+)", CONTAINERFILE, re.MULTILINE)
    assert images
    for image in ("".join(pair) for pair in images):
        assert re.search(r":\d", image), f"{image} is not pinned"
    assert re.findall(r"^USER (\S+)", CONTAINERFILE, re.MULTILINE)[-1] == "flink"
    for layer in re.findall(r"^RUN (.*?[^\\])$", CONTAINERFILE, re.MULTILINE | re.DOTALL):
        if "apt-get install" in layer:
            assert "--no-install-recommends" in layer
            assert "rm -rf /var/lib/apt/lists/*" in layer


def containers() -> list[dict[str, Any]]:
    specs = [pod["spec"]["template"]["spec"] for pod in PODS] + [CLUSTER["spec"]["podTemplate"]["spec"]]
    return [container for spec in specs for container in spec["containers"]]


def test_all_see_the_same_folder_variables_and_image() -> None:
    first, *others = containers()
    for other in others:
        assert other["volumeMounts"] == first["volumeMounts"]
        assert other["envFrom"] == first["envFrom"]
    images = {CLUSTER["spec"]["image"], *(pod["spec"]["template"]["spec"]["containers"][0]["image"] for pod in PODS)}
    (image,) = images
    assert image in CONTAINERFILE


@pytest.mark.parametrize("pod", PODS, ids=lambda pod: pod["metadata"]["name"])
def test_commands_are_those_of_the_package(pod: dict[str, Any]) -> None:
    program, name, *arguments = pod["spec"]["template"]["spec"]["containers"][0]["command"]
    assert program == "tocsin"
    command = main.commands[name]
    context = command.make_context(name, list(arguments), resilient_parsing=False)
    assert (FOLDER.parent / Path(context.params["file"]).name).exists()
    assert context.params["settings"] == ("folder=/plant",)
    if "jobmanager" in context.params and name == "run":
        assert context.params["jobmanager"] == f"{CLUSTER['metadata']['name']}-rest:8081"
        slots = int(CLUSTER["spec"]["flinkConfiguration"]["taskmanager.numberOfTaskSlots"])
        assert context.params["parallelism"] == slots * CLUSTER["spec"]["taskManager"]["replicas"]


def test_the_cluster_fits_the_operators_schema(needs: Needs) -> None:
    (jar,) = maven_jars(needs, ROOT / "tests" / "flink_operator_pom.xml").glob("*.jar")
    with zipfile.ZipFile(jar) as archive:
        text = archive.read("META-INF/fabric8/flinkdeployments.flink.apache.org-v1.yml")
    (version,) = YAML(typ="safe").load(text)["spec"]["versions"]
    assert CLUSTER["apiVersion"] == f"flink.apache.org/{version['name']}"
    spec = version["schema"]["openAPIV3Schema"]["properties"]["spec"]
    spec["properties"]["flinkVersion"]["enum"].append("v2_3")  # it is older than this Flink
    jsonschema.validate(CLUSTER["spec"], spec)
    assert CLUSTER["spec"].keys() <= spec["properties"].keys()
    assert CLUSTER["spec"]["taskManager"].keys() <= spec["properties"]["taskManager"]["properties"].keys()
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(CLUSTER["spec"] | {"flinkVersion": "v9_9"}, spec)
