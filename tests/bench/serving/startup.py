"""The cases of a cold start: seconds until the first answer, and memory after load."""

from tests.bench.figures import Figure, compared, plain
from tests.bench.serving.load import measure
from tests.bench.serving.rounds import ROUNDS, SECONDS, report
from tests.bench.serving.site import Site


def startup(site: Site) -> list[Figure]:
    """Each server started anew in each round, loaded at 32 connections, weighed and ended."""
    servers = {"ours": ("/predict", site.bodies["row"])}
    servers |= {name: (path, bodies) for name, (_, path, bodies) in site.peers().items()}
    seconds: dict[str, list[float]] = {name: [] for name in servers}
    memory: dict[str, list[float]] = {name: [] for name in servers}
    for number in range(ROUNDS):
        for name, (path, bodies) in servers.items():
            with site.start("ours_again" if name == "ours" else name) as running:
                report(site, f"{name} anew", number, measure(running, path, bodies, connections=32, seconds=SECONDS))
                seconds[name].append(running.first_answer_s)
                memory[name].append(running.memory_mb())
            found = f"{seconds[name][-1]:8.2f} s to the first answer, {memory[name][-1]:8.0f} MB after load"
            print(f"round {number + 1}  {name:<18} {found}", flush=True)
            site.tidy()
    return [
        compared("serving.memory", memory["ours"], memory["fastapi"], "MB"),
        compared("serving.time_to_first_answer", seconds["ours"], seconds["fastapi"], "s"),
        *(plain(f"serving.memory_of_{name}", memory[name], "MB") for name in servers if name != "ours"),
        *(plain(f"serving.time_to_first_answer_of_{name}", seconds[name], "s") for name in servers if name != "ours"),
    ]
