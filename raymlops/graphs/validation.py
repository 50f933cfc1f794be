"""A graph spec and its models' signatures -> Plan, or a list of all mistakes. Loads nothing and runs nothing."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import cast

from raymlops.errors import SpecError, unknown_name
from raymlops.graphs import dependencies, port_types
from raymlops.graphs.dependencies import Declared
from raymlops.graphs.kinds import KINDS
from raymlops.graphs.own_kinds import failures_named, require_ports
from raymlops.graphs.plan import Plan, Port, Read, Reference, Step, read_reference
from raymlops.specs.graph import GraphSpec, list_nodes
from raymlops.specs.graph_nodes import INPUTS, Bindings, PlacedNode, is_own, list_references
from raymlops.tensors import Signature, TensorSpec


def validate(spec: GraphSpec, signatures: Mapping[str, Signature], prefix: str = "") -> Plan:
    """Validate a whole graph. `signatures` are those of its models, by path: `node`, or `outer/inner`.

    Raises SpecError with one line per mistake, each naming its node.
    """
    nodes = dependencies.declare(spec, prefix)
    mistakes = dependencies.check_names(spec, nodes)
    if mistakes:
        raise SpecError("\n".join(f"Graph {prefix or spec.name!r}: {mistake}" for mistake in mistakes))
    declared = {tensor.name: port_types.declare_port(tensor) for tensor in spec.inputs or ()}
    tensors = _Tensors(spec, nodes, signatures, prefix, dict(declared), fixed=spec.inputs is not None)
    tensors.resolve()
    if spec.inputs is None:  # what the first pass learnt of the request may be read by earlier nodes
        tensors = _Tensors(spec, nodes, signatures, prefix, tensors.inputs, fixed=True)
        tensors.resolve()
    outputs = tensors.resolve_outputs() if not tensors.mistakes else ()
    if tensors.mistakes:
        raise SpecError("\n".join(f"Graph {prefix or spec.name!r}: {text}" for text in tensors.mistakes))
    return Plan(
        spec,
        tensors.steps,
        frozenset(dependencies.find_owners(nodes)),
        tuple(tensors.inputs.values()),
        tuple(outputs),
    )


def list_leaves(spec: GraphSpec, prefix: str = "") -> Iterator[tuple[str, PlacedNode]]:
    """Nodes that need an implementation, by path, before anything is known of their tensors."""
    for path, node in list_nodes(spec, prefix):
        if not is_own(node.kind) and KINDS[node.kind].is_leaf:
            yield path, cast(PlacedNode, node)


@dataclasses.dataclass
class _Tensors:
    """The validation of one graph; `inputs` grows while they are inferred."""

    spec: GraphSpec
    nodes: Mapping[str, Declared]
    signatures: Mapping[str, Signature]
    prefix: str
    inputs: dict[str, Port]
    fixed: bool
    steps: dict[str, Step] = dataclasses.field(default_factory=dict)
    mistakes: list[str] = dataclasses.field(default_factory=list)

    def resolve(self) -> None:
        elements = dependencies.find_elements(self.nodes)
        for name in dependencies.sort_nodes(self.nodes):
            node = self.nodes[name]
            before = [*(read_reference(text).node for text in node.reads), *node.calls]
            if any(other != INPUTS and other not in self.steps for other in before):
                continue  # its mistake is a consequence of one already reported
            try:
                self.steps[name] = self._resolve_node(name, node, name in elements)
            except SpecError as error:
                self.mistakes.append(f"node {name!r}: {error}")

    def resolve_outputs(self) -> list[tuple[str, Reference]]:
        outputs: dict[str, Reference] = {}
        try:
            for name, text in _named(self.spec.outputs):
                found = [self.find(text)] if name else self._expand(text)
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

    def _resolve_node(self, name: str, declared: Declared, element: bool) -> Step:
        node, kind = declared.node, declared.kind
        document = self.spec.nodes[name]
        with failures_named(self.prefix + name, document):
            resolved = kind.resolve(node, _NodeScope(self, name, element))
            outputs = require_ports(resolved.outputs) if is_own(document.kind) else resolved.outputs
        if isinstance(node.fallback, str):
            outputs = port_types.join_answers(
                {name: outputs, node.fallback: self.steps[node.fallback].outputs}
            )
        elif node.fallback is not None:
            port_types.check_fallback(node.fallback, outputs)
        own = tuple(reference for reference, _ in resolved.reads)
        has_names = kind.is_leaf or resolved.inner is not None
        needs = [*resolved.needs, *((str(reference), reference) for reference in own)]
        if has_names and declared.calls:  # kept separate from the fallback's needs
            needs = [(f"{INPUTS}/{key}", reference) for key, reference in needs]
        for called in declared.calls:
            needs += [(str(reference), reference) for _, reference in self.steps[called].needs]
        needs = list(dict.fromkeys(needs))
        return Step(name, node, kind, tuple(needs), outputs, own, declared.calls, resolved.inner)

    def bind(
        self, bindings: Bindings, wanted: Sequence[Port] | None, element: bool
    ) -> list[tuple[str, Reference]]:
        """Find a source for every wanted input; all bound tensors if nothing in particular is wanted."""
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
            reason = port_types.explain_mismatch(source, port)
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
            return self.find(bindings[name], element, port)
        found = {
            reference: source
            for text in bindings
            for reference, source in self._expand(text, element)
            if reference.tensor == name
        }
        if not found and INPUTS in bindings and not self.fixed:
            return self.find(f"{INPUTS}.{name}", element, port)
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
            for reference, _ in [self.find(text, element)] if name else self._expand(text, element):
                key = name or reference.tensor
                if key in needs and needs[key] != reference:
                    raise SpecError(
                        f"input {key!r} is bound twice, by {needs[key]} and {reference}; name each"
                    )
                needs[key] = reference
        if not needs and self.fixed:
            raise SpecError(
                f"nothing is bound by {', '.join(list_references(bindings))}; declare the graph's inputs"
            )
        return list(needs.items())

    def _expand(self, text: str, element: bool = False) -> list[tuple[Reference, Port]]:
        """All tensors of a reference."""
        reference = read_reference(text)
        if reference.tensor:
            return [self.find(text, element)]
        ports = (
            tuple(self.inputs.values()) if reference.node == INPUTS else self.steps[reference.node].outputs
        )
        return [(Reference(reference.node, port.spec.name), _see(port, element)) for port in ports]

    def find(self, text: str, element: bool = False, wanted: Port | None = None) -> tuple[Reference, Port]:
        """The one tensor of a reference; that of the request may be inferred from what is wanted."""
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
        """If nodes read a request's tensor with and without fixed sizes, the fixed ones hold."""
        known = self.inputs[name]
        shape = port_types.join_shapes(known.spec.shape, port.spec.shape)
        if self.spec.inputs is None and shape is not None:
            self.inputs[name] = Port(TensorSpec(name, known.spec.datatype, shape), known.ragged)


@dataclasses.dataclass(frozen=True)
class _NodeScope:
    """`node_kind.Scope` of one node; `element` if it runs for each element of a ragged tensor."""

    tensors: _Tensors
    name: str
    element: bool

    def read(self, text: str, *, whole: bool = False) -> Read:
        return self.tensors.find(text, self.element and not whole)

    def bind(self, bindings: Bindings, wanted: Sequence[Port] | None) -> list[tuple[str, Reference]]:
        return self.tensors.bind(bindings, wanted, self.element)

    def answers(self, called: str) -> tuple[Port, ...]:
        return self.tensors.steps[called].outputs

    @property
    def signature(self) -> Signature:
        return self.tensors.signatures[self.tensors.prefix + self.name]

    def validate(self, inner: GraphSpec) -> Plan:
        return validate(inner, self.tensors.signatures, f"{self.tensors.prefix}{self.name}/")


def _named(bindings: Bindings) -> list[tuple[str, str]]:
    return list(bindings.items()) if isinstance(bindings, dict) else [("", text) for text in bindings]


def _see(port: Port, element: bool) -> Port:
    """Inside an `each`, a ragged tensor is seen element by element."""
    return Port(port.spec) if element else port
