"""``djinn deploy emit``: a plan as files for Ray Serve and Kubernetes."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import yaml

from djinn_fx.command_line import OK, file_target
from djinn_fx.deploy.arguments import add_input
from djinn_fx.deploy.emitting import kubernetes, ray_serve
from djinn_fx.deploy.reading.comfyui import with_comfyui
from djinn_fx.deploy.reading.config import read_config
from djinn_fx.deploy.reading.faults import Faults
from djinn_fx.deploy.telling.plan_file import read_plan, weighed_by
from djinn_fx.errors import SettingsError


def add_emit(actions: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the action to argparse's."""
    made = actions.add_parser("emit", help="write a plan as files for Ray Serve or Kubernetes")
    made.add_argument("plan", type=Path, metavar="PLAN.json", help="as `plan --json` writes it")
    add_input(made, requests=False)
    made.add_argument("--ray-serve", metavar="FILE", help="a configuration for `serve deploy`")
    made.add_argument("--resource", default=ray_serve.GPU, help="what Ray calls a device (default: GPU)")
    made.add_argument("--eager", action="store_true", help="models run as they are, not compiled by djinn")
    made.add_argument("--kubernetes", metavar="DIR", type=Path, help="manifests with device claims and pod groups")
    made.add_argument("--image", default="djinn-fx:latest", help="of the pods")
    made.add_argument("--device-class", default="gpu.nvidia.com", help="of the device claims")
    made.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Carry it out; returns the exit code."""
    target = file_target("--ray-serve", arguments.ray_serve)
    if arguments.ray_serve is None and arguments.kubernetes is None:
        raise SettingsError("emit what? --ray-serve FILE, --kubernetes DIR")
    faults = Faults()
    config = with_comfyui(
        read_config(arguments.config, faults, workflows=not arguments.comfyui), arguments.comfyui, faults
    )
    faults.tell()
    plan, cluster = read_plan(arguments.plan, config)
    if not plan.replicas:
        raise SettingsError(f"{arguments.plan}: the plan has no copies: there is nothing to emit")
    config = weighed_by(arguments.plan, config)
    if arguments.ray_serve is not None:
        made = ray_serve.content(config, plan, cluster, resource=arguments.resource, compiled=not arguments.eager)
        target.write(_text(made).rstrip("\n"))
    if arguments.kubernetes is not None:
        found = kubernetes.manifests(config, plan, cluster, image=arguments.image, device_class=arguments.device_class)
        try:
            arguments.kubernetes.mkdir(parents=True, exist_ok=True)
            for name, documents in found.items():
                text = "---\n".join(_text(one) for one in documents)
                (arguments.kubernetes / name).write_text(text, encoding="utf-8")
        except OSError as error:
            raise SettingsError(f"--kubernetes {arguments.kubernetes}: cannot be written: {error.strerror}") from error
    return OK


def _text(value: Any) -> str:
    return str(yaml.safe_dump(value, sort_keys=False))
