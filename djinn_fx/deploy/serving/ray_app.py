"""The application that an emitted file of Ray Serve names: a deployment for each model and server, and a router.

The router sends a request's nodes along its workflow: to one server where one has all of the models, the one with the
fewest requests under way first, else to any that has the node's model.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

#: Of the router's deployment; those of models are called as :func:`deployment_name` says.
ROUTER = "router"


def deployment_name(model: str, server: int) -> str:
    """Of a model's copies in a server."""
    return f"{model}-server-{server}"


class Host:
    """One copy of a model.

    Args:
        entry: ``package.module:name``.
        compiled: whether it runs compiled by the backend "djinn".
        place: deployment and server, told with every answer.
    """

    def __init__(self, entry: str, compiled: bool, place: str) -> None:
        from djinn_fx.deploy.serving.entry import load_entry

        self.entry, self.place = load_entry(entry), place
        if compiled:
            self.entry.module.compile(backend="djinn")

    def answer(self, data: Mapping[str, Any], results: Mapping[str, Any]) -> tuple[str, Any]:
        """Run one node."""
        return self.place, self.entry.answer(data, results)


class Router:
    """Sends nodes to copies.

    Args:
        workflows: for each name, nodes in an order in which they may run: name, model, names of those before.
        hosted: for each model, the servers that have it.
        handles: for each deployment of a model its handle.
    """

    def __init__(
        self, workflows: Mapping[str, Any], hosted: Mapping[str, list[int]], handles: Mapping[str, Any]
    ) -> None:
        self.workflows, self.hosted, self.handles = workflows, hosted, handles
        self.under_way: dict[int, int] = {server: 0 for servers in hosted.values() for server in servers}

    def home(self, workflow: str) -> int | None:
        """The server for all of a workflow's nodes; None where no server has all of its models."""
        models = {node["model"] for node in self.workflows[workflow]}
        common = set.intersection(*(set(self.hosted[model]) for model in models))
        return min(common, key=lambda server: (self.under_way[server], server), default=None)

    async def run(self, workflow: str, data: Mapping[str, Any]) -> dict[str, Any]:
        """All nodes of a request, each as soon as those before it have answered.

        Returns:
            for each node the place that ran it, and its result.

        Raises:
            ValueError: there is no such workflow.
        """
        if workflow not in self.workflows:
            raise ValueError(f"there is no workflow {workflow!r}; there are {', '.join(self.workflows)}")
        home = self.home(workflow)
        tasks: dict[str, asyncio.Task[tuple[str, Any]]] = {}
        for node in self.workflows[workflow]:
            tasks[node["name"]] = asyncio.ensure_future(self._node(node, home, data, dict(tasks)))
        answers = dict(zip(tasks, await asyncio.gather(*tasks.values()), strict=True))
        return {name: {"place": place, "result": result} for name, (place, result) in answers.items()}

    async def _node(
        self, node: Mapping[str, Any], home: int | None, data: Mapping[str, Any], tasks: Mapping[str, Any]
    ) -> tuple[str, Any]:
        results = {name: (await tasks[name])[1] for name in node["before"]}
        servers = self.hosted[node["model"]]
        server = home if home is not None else min(servers, key=lambda one: (self.under_way[one], one))
        self.under_way[server] += 1
        try:
            answer: tuple[str, Any] = await self.handles[deployment_name(node["model"], server)].answer.remote(
                data, results
            )
            return answer
        finally:
            self.under_way[server] -= 1

    async def __call__(self, request: Any) -> Any:
        """Over HTTP: ``{"workflow": name, "data": {...}}``; tensors come and go as lists."""
        asked = await request.json()
        found = await self.run(asked["workflow"], asked.get("data", {}))
        return {name: {**one, "result": _plain(one["result"])} for name, one in found.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    return value.tolist() if hasattr(value, "tolist") else value


def build(args: Mapping[str, Any]) -> Any:
    """The application, as Ray Serve asks for it.

    Args:
        args: ``models`` (for each name its entry and servers), ``workflows``, ``compiled``.
    """
    from ray import serve

    handles, hosted = {}, {}
    for model, one in args["models"].items():
        hosted[model] = [int(server) for server in one["servers"]]
        for server in hosted[model]:
            name = deployment_name(model, server)
            host: Any = serve.deployment(Host, name=name)
            handles[name] = host.bind(one["entry"], bool(args.get("compiled")), name)
    router: Any = serve.deployment(Router, name=ROUTER)
    return router.bind(args["workflows"], hosted, handles)
