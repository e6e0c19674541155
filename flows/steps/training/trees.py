"""Trees as they are served: an ensemble that gives one number per row, instead of a class and two probabilities.

ONNX Runtime keeps a list of scores per row for a classifier, and looks at every split whether NaN has a way of its own.
Two classes need one score, and preprocessing leaves no NaN: a fifth of what the trees cost.
"""

from typing import Any

ENDS = {b"NONE": None, b"LOGISTIC": "Sigmoid"}  # what the classifier does to its sums, as an operator
LEAVES = ("treeids", "nodeids", "ids", "weights")


def single_score(graph: Any) -> Any:
    """The model with P(1) [n, 1] as its only output if it is trees of the classes 0 and 1; any other as it is."""
    from onnx import TensorProto, helper

    trees = [node for node in graph.graph.node if node.op_type == "TreeEnsembleClassifier"]
    if len(trees) != 1:
        return graph
    given = {a.name: helper.get_attribute_value(a) for a in trees[0].attribute}
    end = given.get("post_transform", b"NONE")
    leaves = _leaves(given)
    if end not in ENDS or leaves is None or list(given.get("classlabels_int64s", ())) != [0, 1]:
        return graph
    nodes = {name: value for name, value in given.items() if name.startswith("nodes_")}
    nodes.pop("nodes_missing_value_tracks_true", None)
    if (base := given.get("base_values")) is not None:
        nodes["base_values"] = [base[-1]]
    final = ENDS[end]
    sums = "sums" if final else "probabilities"
    made = [
        helper.make_node(
            "TreeEnsembleRegressor", list(trees[0].input), [sums], domain="ai.onnx.ml", n_targets=1, **nodes, **leaves
        )
    ]
    if final:
        made.append(helper.make_node(final, [sums], ["probabilities"]))
    output = helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, [None, 1])
    del graph.graph.node[:], graph.graph.output[:]
    graph.graph.node.extend(made)
    graph.graph.output.append(output)
    return graph


def _leaves(given: dict[str, Any]) -> dict[str, Any] | None:
    """The leaves' weights for class 1, as a regressor has them; None unless each leaf has just one."""
    columns = [given[f"class_{name}"] for name in LEAVES]
    rows = list(zip(*columns, strict=True))
    classes = set(given["class_ids"])
    chosen = rows if len(classes) == 1 else [row for row in rows if row[2] == 1]
    if len(chosen) != given["nodes_modes"].count(b"LEAF") or len({row[:2] for row in chosen}) != len(chosen):
        return None
    trees, nodes, _, weights = map(list, zip(*chosen, strict=True))
    return {
        "target_treeids": trees,
        "target_nodeids": nodes,
        "target_ids": [0] * len(chosen),
        "target_weights": weights,
    }
