"""A graph spec and its models' signatures -> Plan, or every mistake by name. Loads nothing and runs
nothing."""

import dataclasses
from collections.abc import Iterator, Mapping

from raymlops.errors import SpecError, unknown_name
from raymlops.graphs import structure, types
from raymlops.graphs.plan import LENGTHS, Plan, Port, Reference, Step, read_reference
from raymlops.specs.graph import AnyNode, GraphNode, GraphSpec
from raymlops.specs.graph_nodes import (
    INPUTS,
    Bindings,
    CascadeNode,
    EachNode,
    MeanNode,
    ModelNode,
    PythonNode,
    SplitNode,
    StackNode,
    SwitchNode,
    Tensor,
    VoteNode,
    WeightedNode,
)
from raymlops.tensors import Signature, TensorSpec


def validate(spec: GraphSpec, signatures: Mapping[str, Signature], prefix: str = "") -> Plan:
    """Check a whole graph. `signatures` are those of its models, by path: `node`, or `outer/inner`.

    Raises SpecError with one line a mistake, each naming its node.
    """
    mistakes = structure.check_names(spec)
    if mistakes:
        raise SpecError("\n".join(f"Graph {prefix or spec.name!r}: {mistake}" for mistake in mistakes))
    declared = {tensor.name: _to_port(tensor) for tensor in spec.inputs or ()}
    scope = _Scope(spec, signatures, prefix, dict(declared), fixed=spec.inputs is not None)
    scope.resolve()
    if spec.inputs is None:  # what the first pass learnt of the request may be read by nodes that came before
        scope = _Scope(spec, signatures, prefix, scope.inputs, fixed=True)
        scope.resolve()
    outputs = scope.resolve_outputs() if not scope.mistakes else ()
    if scope.mistakes:
        raise SpecError("\n".join(f"Graph {prefix or spec.name!r}: {text}" for text in scope.mistakes))
    return Plan(
        spec,
        scope.steps,
        frozenset(structure.find_owners(spec)),
        tuple(scope.inputs.values()),
        tuple(outputs),
    )


def list_models(spec: GraphSpec, prefix: str = "") -> Iterator[tuple[str, ModelNode | PythonNode]]:
    """Nodes that need an implementation, by path, before anything is known of their tensors."""
    for name, node in spec.nodes.items():
        if isinstance(node, ModelNode | PythonNode):
            yield prefix + name, node
        elif isinstance(node, GraphNode) and node.graph is not None:
            yield from list_models(node.graph, f"{prefix}{name}/")


@dataclasses.dataclass
class _Scope:
    """The walk over one graph; `inputs` grows while they are inferred."""

    spec: GraphSpec
    signatures: Mapping[str, Signature]
    prefix: str
    inputs: dict[str, Port]
    fixed: bool
    steps: dict[str, Step] = dataclasses.field(default_factory=dict)
    mistakes: list[str] = dataclasses.field(default_factory=list)

    def resolve(self) -> None:
        elements = _find_elements(self.spec)
        for name in structure.sort_nodes(self.spec):
            node = self.spec.nodes[name]
            before = [read_reference(text).node for text in structure.list_reads(node)]
            if any(
                other != INPUTS and other not in self.steps for other in before + structure.list_calls(node)
            ):
                continue  # its mistake is that of the other, already told
            try:
                self.steps[name] = self._resolve_node(name, node, name in elements)
            except SpecError as error:
                self.mistakes.append(f"node {name!r}: {error}")

    def resolve_outputs(self) -> list[tuple[str, Reference]]:
        outputs: dict[str, Reference] = {}
        try:
            for name, text in _named(self.spec.outputs):
                found = [self._find(text)] if name else self._expand(text)
                for reference, _ in found:
                    key = name or reference.tensor
                    if key in outputs:
                        raise SpecError(
                            f"output {key!r} is given by both {outputs[key]} and {reference}; name each"
                        )
                    outputs[key] = reference
        except SpecError as error:
            self.mistakes.append(f"outputs: {error}")
        return list(outputs.items())

    def _resolve_node(self, name: str, node: AnyNode, element: bool) -> Step:
        calls = tuple(structure.list_calls(node))
        inner: Plan | None = None
        reads: list[types.Read] = []
        needs: list[tuple[str, Reference]] = []
        match node:
            case ModelNode():
                signature = self.signatures[self.prefix + name]
                needs = self._bind(node.inputs, [Port(spec) for spec in signature.inputs], element)
                outputs = types.answer_of_model(node, signature)
            case PythonNode():
                takes = None if node.takes is None else [_to_port(tensor) for tensor in node.takes]
                needs = self._bind(node.inputs, takes, element)
                outputs = tuple(_to_port(tensor) for tensor in node.outputs)
            case GraphNode():
                assert node.graph is not None, "inner graph files are read by read_graph"
                inner = validate(node.graph, self.signatures, f"{self.prefix}{name}/")
                needs = self._bind(node.inputs, list(inner.inputs), element)
                outputs = inner.output_ports
            case MeanNode() | WeightedNode() | VoteNode() | StackNode():
                reads = [self._find(text, element) for text in node.of]
                outputs = _combine(node, reads)
            case _:
                reads, outputs = self._resolve_router(node, element)
        needs += [(str(reference), reference) for reference, _ in reads]
        if isinstance(node.fallback, str):
            outputs = types.answer_of_branches(
                {name: outputs, node.fallback: self.steps[node.fallback].outputs}
            )
        elif node.fallback is not None:
            types.check_fallback(node.fallback, outputs)
        if calls and isinstance(node, ModelNode | PythonNode | GraphNode):
            needs = [
                (f"{INPUTS}/{key}", reference) for key, reference in needs
            ]  # apart from the fallback's needs
        for called in calls:
            needs += [(str(reference), reference) for _, reference in self.steps[called].needs]
        own = tuple(reference for reference, _ in reads)
        return Step(name, node, tuple(dict.fromkeys(needs)), outputs, own, calls, inner)

    def _resolve_router(self, node: AnyNode, element: bool) -> tuple[list[types.Read], tuple[Port, ...]]:
        answers = {
            called: self.steps[called].outputs
            for called in structure.list_calls(node)
            if called != node.fallback
        }
        reads = [
            self._find(text, element and not isinstance(node, EachNode))
            for text in structure.list_reads(node)
        ]
        outputs = types.answer_of_branches(answers)
        match node:
            case SwitchNode():
                for case, (_, port) in zip(node.cases, reads, strict=True):
                    types.check_condition(case.when, port)
            case SplitNode() if reads:
                types.check_one_a_row(str(reads[0][0]), reads[0][1])
            case CascadeNode():
                names = {port.spec.name: port for port in outputs}
                if node.confidence not in names:
                    raise SpecError(unknown_name("tensor under confidence:", node.confidence, names))
                if names[node.confidence].ragged or names[node.confidence].spec.datatype not in types.FLOATS:
                    raise SpecError(f"confidence {names[node.confidence]} is no number a row")
            case EachNode():
                if not reads[0][1].ragged:
                    raise SpecError(f"each runs over a ragged tensor, but {reads[0][0]} is {reads[0][1]}")
                outputs = types.answer_of_each(outputs)
        return reads, outputs

    def _bind(
        self, bindings: Bindings, wanted: list[Port] | None, element: bool
    ) -> list[tuple[str, Reference]]:
        """Find a source for every wanted input; all that is bound when nothing in particular is wanted."""
        if wanted is None:
            return self._bind_all(bindings, element)
        if isinstance(bindings, dict):
            names = [port.spec.name for port in wanted]
            for name in bindings:
                if name not in names:
                    raise SpecError(unknown_name("input:", name, names))
        needs = []
        for port in wanted:
            reference, source = self._find_source(bindings, port, element)
            reason = types.explain_mismatch(source, port)
            if reason:
                raise SpecError(f"input {port} cannot read {reference} ({source}): {reason}")
            if reference.node == INPUTS:
                self._sharpen(reference.tensor, port)
            needs.append((port.spec.name, reference))
        return needs

    def _find_source(self, bindings: Bindings, port: Port, element: bool) -> tuple[Reference, Port]:
        name = port.spec.name
        if isinstance(bindings, dict):
            if name not in bindings:
                raise SpecError(f"input {port} is not bound; add `{name}: node.tensor` under its inputs")
            return self._find(bindings[name], element, port)
        found = {
            reference: source
            for text in bindings
            for reference, source in self._expand(text, element)
            if reference.tensor == name
        }
        if not found and INPUTS in bindings and not self.fixed:
            return self._find(f"{INPUTS}.{name}", element, port)
        if not found:
            offered = [reference.tensor for text in bindings for reference, _ in self._expand(text, element)]
            near = unknown_name("tensor", name, offered)
            raise SpecError(f"input {port} is not bound by {', '.join(bindings)}: {near}")
        if len(found) > 1:
            raise SpecError(
                f"input {port} is bound twice, by {' and '.join(str(reference) for reference in found)}; "
                f"write inputs as a mapping that names one"
            )
        return next(iter(found.items()))

    def _bind_all(self, bindings: Bindings, element: bool) -> list[tuple[str, Reference]]:
        needs: dict[str, Reference] = {}
        for name, text in _named(bindings):
            for reference, _ in [self._find(text, element)] if name else self._expand(text, element):
                key = name or reference.tensor
                if key in needs and needs[key] != reference:
                    raise SpecError(
                        f"input {key!r} is bound twice, by {needs[key]} and {reference}; name each"
                    )
                needs[key] = reference
        if not needs and self.fixed:
            raise SpecError(
                f"nothing is bound by {', '.join(structure.list_bound(bindings))}; declare the graph's inputs"
            )
        return list(needs.items())

    def _expand(self, text: str, element: bool = False) -> list[tuple[Reference, Port]]:
        """All tensors that a reference stands for."""
        reference = read_reference(text)
        if reference.tensor:
            return [self._find(text, element)]
        ports = (
            tuple(self.inputs.values()) if reference.node == INPUTS else self.steps[reference.node].outputs
        )
        return [(Reference(reference.node, port.spec.name), _see(port, element)) for port in ports]

    def _find(self, text: str, element: bool = False, wanted: Port | None = None) -> tuple[Reference, Port]:
        """The one tensor that a reference stands for; one of the request may be learnt from what is
        wanted."""
        reference = read_reference(text)
        if (
            reference.node == INPUTS
            and reference.tensor
            and reference.tensor not in self.inputs
            and not self.fixed
        ):
            if wanted is None:
                raise SpecError(f"the type of {text!r} is not known")
            self.inputs[reference.tensor] = wanted.named(reference.tensor)
        ports = (
            tuple(self.inputs.values()) if reference.node == INPUTS else self.steps[reference.node].outputs
        )
        if not reference.tensor:
            if len(ports) != 1:
                names = ", ".join(port.spec.name for port in ports) or "nothing yet known"
                raise SpecError(f"{text!r} stands for {names}; write {text}.TENSOR to name one")
            return Reference(reference.node, ports[0].spec.name), _see(ports[0], element)
        for port in ports:
            if port.spec.name == reference.tensor:
                return reference, _see(port, element)
        hint = (
            "; declare it under the graph's inputs"
            if reference.node == INPUTS and self.spec.inputs is None
            else ""
        )
        known = [port.spec.name for port in ports]
        raise SpecError(unknown_name(f"tensor of {reference.node!r}:", reference.tensor, known) + hint)

    def _sharpen(self, name: str, port: Port) -> None:
        """Of a request's tensor that nodes take with and without fixed sizes, the fixed ones hold."""
        known = self.inputs[name]
        shape = types.join_shapes(known.spec.shape, port.spec.shape)
        if self.spec.inputs is None and shape is not None:
            self.inputs[name] = Port(TensorSpec(name, known.spec.datatype, shape), known.ragged)


def _find_elements(spec: GraphSpec) -> set[str]:
    """Nodes that an `each` runs, directly or by way of those that they call."""
    waiting = [node.run for node in spec.nodes.values() if isinstance(node, EachNode)]
    found: set[str] = set()
    while waiting:
        name = waiting.pop()
        found.add(name)
        waiting += [called for called in structure.list_calls(spec.nodes[name]) if called not in found]
    return found


def _combine(
    node: MeanNode | WeightedNode | VoteNode | StackNode, reads: list[tuple[Reference, Port]]
) -> tuple[Port, ...]:
    if isinstance(node, VoteNode):
        return types.answer_of_vote(reads)
    return types.answer_of_stack(node, reads) if isinstance(node, StackNode) else types.answer_of_mean(reads)


def _named(bindings: Bindings) -> list[tuple[str, str]]:
    return list(bindings.items()) if isinstance(bindings, dict) else [("", text) for text in bindings]


def _see(port: Port, element: bool) -> Port:
    """Inside an `each`, a ragged tensor is seen element by element."""
    return Port(port.spec) if element else port


def _to_port(tensor: Tensor) -> Port:
    if tensor.ragged and tensor.name.endswith(LENGTHS):
        raise SpecError(f"ragged tensor {tensor.name!r}: names ending in {LENGTHS!r} are kept for its counts")
    return Port(tensor.to_spec(), tensor.ragged)
