"""Rules across the fields of Kubernetes objects, which their schemas cannot check; each gives what is wrong in words.

An API server refuses some of this when it is too late, and takes the rest: a selector that finds no pod, a claim that
nobody declared. All rules are pure functions of the objects as they would be applied.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

Object = Mapping[str, Any]
Rule = Callable[[Sequence[Object]], list[str]]
UNITS = {"": 1, "m": Fraction(1, 1000), "k": 10**3, "M": 10**6, "G": 10**9, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30}
PREDICTOR = {"minReplicas", "maxReplicas", "scaleMetric", "scaleTarget"}  # of KServe; all else of it is a pod


@dataclass(frozen=True)
class Pod:
    """The pods that an object makes: who makes them, their labels and their spec."""

    owner: str
    labels: Mapping[str, str]
    spec: Mapping[str, Any]

    @property
    def containers(self) -> list[Mapping[str, Any]]:
        """All of a pod's containers, those that run before the others included."""
        return [*self.spec.get("initContainers", ()), *self.spec["containers"]]

    @property
    def ports(self) -> set[str | int]:
        """Names and numbers of the ports that its containers declare."""
        declared = [port for container in self.spec["containers"] for port in container.get("ports", ())]
        return {port["containerPort"] for port in declared} | {port["name"] for port in declared if "name" in port}


def label(item: Object) -> str:
    """Kind and name of an object."""
    return f"{item['kind']}/{item['metadata']['name']}"


def of(objects: Sequence[Object], *kinds: str) -> list[Object]:
    """The objects of some kinds."""
    return [item for item in objects if item["kind"] in kinds]


def names(objects: Sequence[Object], kind: str) -> set[str]:
    """Names of the objects of a kind."""
    return {item["metadata"]["name"] for item in of(objects, kind)}


def pods(objects: Sequence[Object]) -> list[Pod]:
    """The pods that the objects make."""
    made = [(item, item["spec"]["template"]) for item in of(objects, "Deployment")]
    found = [Pod(label(item), template["metadata"].get("labels", {}), template["spec"]) for item, template in made]
    for item in of(objects, "InferenceService"):  # KServe gives its pods the service's own labels
        spec = {key: value for key, value in item["spec"]["predictor"].items() if key not in PREDICTOR}
        found.append(Pod(label(item), item["metadata"].get("labels", {}), spec))
    return found


def chosen(selector: Mapping[str, Any], among: Iterable[Pod]) -> list[Pod]:
    """The pods with all labels of a selector."""
    wanted = selector.get("matchLabels", {}).items()
    return [pod for pod in among if wanted <= pod.labels.items()]


def amount(text: str | int) -> Fraction:
    """A quantity such as 500m or 2Gi as a number."""
    found = re.fullmatch(r"([0-9.]+)([a-zA-Z]*)", str(text))
    if found is None or found[2] not in UNITS:
        raise ValueError(f"{text!r} is no quantity")
    return Fraction(found[1]) * UNITS[found[2]]


def selectors_match_their_own_pods(objects: Sequence[Object]) -> list[str]:
    """A Deployment's selector takes the pods of its template, and no other Deployment's."""
    wrong = []
    for item in of(objects, "Deployment"):
        taken = {pod.owner for pod in chosen(item["spec"]["selector"], pods(objects))}
        if taken != {label(item)}:
            wrong.append(f"{label(item)} selects the pods of {sorted(taken) or 'nobody'}")
    return wrong


def mounts_have_volumes(objects: Sequence[Object]) -> list[str]:
    """Every mount has its volume, every volume is mounted, and no path is mounted twice."""
    wrong = []
    for pod in pods(objects):
        declared = {volume["name"] for volume in pod.spec.get("volumes", ())}
        used = set()
        for container in pod.containers:
            mounts = container.get("volumeMounts", ())
            paths = [mount["mountPath"] for mount in mounts]
            used |= {mount["name"] for mount in mounts}
            wrong += [f"{pod.owner}: {path} is mounted twice" for path in {p for p in paths if paths.count(p) > 1}]
        wrong += [f"{pod.owner}: mount of {name!r} has no volume" for name in sorted(used - declared)]
        wrong += [f"{pod.owner}: volume {name!r} is mounted nowhere" for name in sorted(declared - used)]
    return wrong


def services_reach_pods(objects: Sequence[Object]) -> list[str]:
    """A Service selects pods of one owner, and its target ports are ports of them."""
    wrong = []
    for item in of(objects, "Service"):
        found = chosen({"matchLabels": item["spec"]["selector"]}, pods(objects))
        if len({pod.owner for pod in found}) != 1:
            wrong.append(f"{label(item)} selects the pods of {[pod.owner for pod in found] or 'nobody'}")
        for port in item["spec"]["ports"]:
            target = port.get("targetPort", port["port"])
            wrong += [f"{label(item)}: {pod.owner} has no port {target!r}" for pod in found if target not in pod.ports]
    return wrong


def probes_ask_a_port(objects: Sequence[Object]) -> list[str]:
    """Every container that stays has the three probes, and they ask a port that it declares."""
    wrong = []
    for pod in pods(objects):
        for container in pod.spec["containers"]:
            for name in ("startupProbe", "readinessProbe", "livenessProbe"):
                port = container.get(name, {}).get("httpGet", {}).get("port")
                if port not in pod.ports:
                    wrong.append(f"{pod.owner}: {name} asks port {port!r}, declared are {sorted(map(str, pod.ports))}")
    return wrong


def requests_are_within_limits(objects: Sequence[Object]) -> list[str]:
    """CPU and memory are requested and limited, and no request is above its limit."""
    wrong = []
    for pod in pods(objects):
        for container in pod.containers:
            asked, most = (container.get("resources", {}).get(part, {}) for part in ("requests", "limits"))
            where = f"{pod.owner}, {container['name']}"
            unset = {"cpu", "memory"} - (asked.keys() & most.keys())
            wrong += [f"{where}: {name} has no request or no limit" for name in sorted(unset)]
            for name in sorted(asked.keys() & most.keys()):
                if amount(asked[name]) > amount(most[name]):
                    wrong.append(f"{where}: requests {asked[name]} of {name}, above its limit {most[name]}")
    return wrong


def selectors_find_pods(objects: Sequence[Object]) -> list[str]:
    """What names pods by label finds some: disruption budgets, policies, spread constraints; monitors find Services."""
    wrong = []
    for item in of(objects, "PodDisruptionBudget"):
        if not chosen(item["spec"]["selector"], pods(objects)):
            wrong.append(f"{label(item)} selects no pod")
    for item in of(objects, "NetworkPolicy"):
        found = chosen(item["spec"]["podSelector"], pods(objects))
        wrong += [] if found else [f"{label(item)} selects no pod"]
        ports = [port["port"] for rule in item["spec"].get("ingress", ()) for port in rule.get("ports", ())]
        wrong += [f"{label(item)}: {p.owner} has no port {n!r}" for p in found for n in ports if n not in p.ports]
    for pod in pods(objects):
        for spread in pod.spec.get("topologySpreadConstraints", ()):
            if not chosen(spread["labelSelector"], [pod]):
                wrong.append(f"{pod.owner} spreads other pods than its own")
    for item in of(objects, "PodMonitor"):
        found, asked = chosen(item["spec"]["selector"], pods(objects)), item["spec"]["podMetricsEndpoints"]
        wrong += [] if found else [f"{label(item)} selects no pod"]
        ports = [(pod, endpoint["port"]) for pod in found for endpoint in asked]
        wrong += [f"{label(item)}: {pod.owner} has no port {port!r}" for pod, port in ports if port not in pod.ports]
    for item in of(objects, "ServiceMonitor"):
        wanted = item["spec"]["selector"]["matchLabels"].items()
        found = [s for s in of(objects, "Service") if wanted <= s["metadata"].get("labels", {}).items()]
        ports = {port["name"] for service in found for port in service["spec"]["ports"]}
        wrong += [] if found else [f"{label(item)} selects no Service"]
        asked = [endpoint["port"] for endpoint in item["spec"]["endpoints"]]
        wrong += [f"{label(item)}: no Service has a port {port!r}" for port in asked if found and port not in ports]
    return wrong


def scalers_have_targets(objects: Sequence[Object]) -> list[str]:
    """An autoscaler's target is there, requests what it is scaled by, and does not set its own number of replicas."""
    wrong = []
    for item in of(objects, "HorizontalPodAutoscaler"):
        ref, spec = item["spec"]["scaleTargetRef"], item["spec"]
        target = next((o for o in of(objects, ref["kind"]) if o["metadata"]["name"] == ref["name"]), None)
        if spec["minReplicas"] > spec["maxReplicas"]:
            wrong.append(f"{label(item)}: at least {spec['minReplicas']}, at most {spec['maxReplicas']}")
        if target is None:
            wrong.append(f"{label(item)} scales {ref['kind']}/{ref['name']}, which is not there")
        elif "replicas" in target["spec"]:
            wrong.append(f"{label(target)} sets its replicas, which {label(item)} decides")
    return wrong


def references(pod: Pod) -> Iterator[tuple[str, str, str | None]]:
    """Kind, name and key of what a pod cannot start without; what is optional is left out."""
    if account := pod.spec.get("serviceAccountName"):
        yield "ServiceAccount", account, None
    for volume in pod.spec.get("volumes", ()):
        if "persistentVolumeClaim" in volume:
            yield "PersistentVolumeClaim", volume["persistentVolumeClaim"]["claimName"], None
        for kind, part, name in (("ConfigMap", "configMap", "name"), ("Secret", "secret", "secretName")):
            if part in volume and not volume[part].get("optional"):
                yield kind, volume[part][name], None
    for container in pod.containers:
        for kind, part in (("ConfigMap", "configMap"), ("Secret", "secret")):
            many = [source.get(f"{part}Ref") for source in container.get("envFrom", ())]
            one = [entry.get("valueFrom", {}).get(f"{part}KeyRef") for entry in container.get("env", ())]
            for found in [*many, *one]:
                if found and not found.get("optional"):
                    yield kind, found["name"], found.get("key")


def references_exist(external: Iterable[tuple[str, str]]) -> Rule:
    """What pods refer to is among the objects, keys included, or among what is declared to be made elsewhere."""
    elsewhere = set(external)

    def rule(objects: Sequence[Object]) -> list[str]:
        here = {(item["kind"], item["metadata"]["name"]): item for item in objects}
        wrong = []
        for pod in pods(objects):
            for kind, name, key in references(pod):
                if (kind, name) in elsewhere:
                    continue
                if (kind, name) not in here:
                    wrong.append(f"{pod.owner} refers to {kind}/{name}, which is neither here nor declared external")
                elif key is not None and key not in here[kind, name].get("data", {}):
                    wrong.append(f"{pod.owner} refers to {key!r} of {kind}/{name}, which has no such key")
        return wrong

    return rule


def updates_lose_no_request(drain_s: float) -> Rule:
    """What a Service reaches is replaced before it ends, hears of its end last, and has the time to drain."""

    def rule(objects: Sequence[Object]) -> list[str]:
        wrong = []
        served = [i["spec"]["selector"].items() for i in of(objects, "Service")]
        behind = {p.owner for p in pods(objects) if any(wanted <= p.labels.items() for wanted in served)}
        for item in of(objects, "Deployment"):
            if label(item) in behind and item["spec"]["strategy"].get("rollingUpdate", {}).get("maxUnavailable") != 0:
                wrong.append(f"{label(item)} may take pods away before others are ready")
        for pod in pods(objects):
            if pod.owner not in behind and not pod.owner.startswith("InferenceService/"):
                continue
            hooks = [c.get("lifecycle", {}).get("preStop", {}).get("sleep", {}) for c in pod.spec["containers"]]
            pause = max(hook.get("seconds", 0) for hook in hooks)
            grace = pod.spec.get("terminationGracePeriodSeconds", 30)
            if pause < 5:
                wrong.append(f"{pod.owner} ends {pause} s after it is told to: gateways have not heard of it by then")
            if grace <= pause + drain_s:
                wrong.append(f"{pod.owner} is killed after {grace} s; preStop and drain take up to {pause + drain_s} s")
        return wrong

    return rule


def images_are_digests(objects: Sequence[Object]) -> list[str]:
    """Every image is named by the digest of what was tested."""
    images = [(pod.owner, container["image"]) for pod in pods(objects) for container in pod.containers]
    return [f"{o} runs {i}, which has no digest" for o, i in images if not re.search(r".@sha256:[0-9a-f]{64}$", i)]


def pods_are_hardened(objects: Sequence[Object]) -> list[str]:
    """No root, no rights, no token, nothing to write but volumes."""
    wrong = []
    for pod in pods(objects):
        security = pod.spec.get("securityContext", {})
        own = (security.get("runAsNonRoot"), security.get("runAsUser"), security.get("runAsGroup"))
        if own != (True, 10001, 10001):
            wrong.append(f"{pod.owner} runs as {own}, not as user and group 10001")
        if security.get("seccompProfile", {}).get("type") != "RuntimeDefault":
            wrong.append(f"{pod.owner} has no seccomp profile")
        if pod.spec.get("automountServiceAccountToken") is not False:
            wrong.append(f"{pod.owner} is given a token of the cluster")
        for container in pod.containers:
            rights = container.get("securityContext", {})
            if not rights.get("readOnlyRootFilesystem") or rights.get("allowPrivilegeEscalation") is not False:
                wrong.append(f"{pod.owner}, {container['name']}: root filesystem or privileges are open")
            if rights.get("capabilities") != {"drop": ["ALL"]}:
                wrong.append(f"{pod.owner}, {container['name']} keeps capabilities")
    return wrong


def objects_are_distinct(objects: Sequence[Object]) -> list[str]:
    """No two objects have one kind and name, and all are of one namespace."""
    told = [label(item) for item in objects]
    wrong = [f"{name} is there {told.count(name)} times" for name in sorted(set(told)) if told.count(name) > 1]
    spaces = {item["metadata"].get("namespace") for item in objects if item["kind"] != "Namespace"}
    return wrong + ([f"objects of several namespaces: {sorted(map(str, spaces))}"] if len(spaces) > 1 else [])
