import type { Graph, Node, Value } from '../onnx/graph.ts';

/** A graph as a chain of stages; a stage reads what earlier ones computed, and each switch acts from one stage on. */
export interface Stages {
  readonly count: number;
  /** The stage that computes a node; null for what constants and `free` inputs alone decide: any stage may repeat it. */
  stageOf(node: Node): number | null;
  /** The first stage that reads a switch, or `count` where none does. */
  firstStage(switched: Value): number;
  /** Values that later stages read, by the stage that computes them, each with the last stage that reads it. */
  readonly handedOn: readonly ReadonlyMap<Value, number>[];
}

/**
 * Cuts a graph right before the nodes that read a switch (the gates of adapters), so that a changed switch leaves all
 * stages before its own as they are: of the layer itself, too, only what lies behind the switch is computed again.
 * Switches that do not depend on each other share a stage, as late as what follows allows: then the two halves of an
 * encoder-decoder lie one after the other. All other nodes are computed as early as their inputs are there. `free`
 * names the inputs that are at hand in every stage (switches included): parameters.
 */
export function stagesBySwitch(
  graph: Graph,
  switches: ReadonlySet<Value>,
  free: (input: Value) => boolean,
): Stages {
  graph.sort();
  const inputsOf = (node: Node) => [
    ...node.inputs.filter((value) => value !== null),
    ...node.subgraphs().flatMap((inner) => [...inner.captures()]),
  ];
  const data = new Set<Value>(graph.inputs.filter((value) => !value.initializer && !free(value)));
  /** Switches, and what they and parameters alone decide. */
  const switched = new Map<Value, readonly Value[]>([...switches].map((value) => [value, [value]]));
  const reads = new Map<Node, readonly Value[]>();
  const flow: Node[] = [];
  for (const node of graph.nodes) {
    const inputs = inputsOf(node);
    const acts = [...new Set(inputs.flatMap((value) => switched.get(value) ?? []))];
    const flows = inputs.some((value) => data.has(value));
    if (flows) flow.push(node);
    if (acts.length > 0 && flows) reads.set(node, acts);
    for (const value of node.outputs)
      if (value && flows) data.add(value);
      else if (value && acts.length > 0) switched.set(value, acts);
  }
  /** The most switches that follow one after the other from a node to the outputs, its own included. */
  const behind = new Map<Node, number>();
  for (const node of flow.toReversed()) {
    const users = node.outputs.flatMap((value) => (value ? [...value.users] : []));
    const most = Math.max(0, ...users.map((user) => behind.get(user) ?? 0));
    behind.set(node, most + (reads.has(node) ? 1 : 0));
  }
  const last = Math.max(0, ...behind.values());
  const stages = new Map<Node, number>();
  const computed = new Map<Value, number>();
  const handedOn = Array.from({ length: last + 1 }, () => new Map<Value, number>());
  for (const node of flow) {
    const inputs = inputsOf(node).filter((value) => computed.has(value));
    const stage = Math.max(
      reads.has(node) ? last + 1 - behind.get(node)! : 0,
      ...inputs.map((value) => computed.get(value)!),
    );
    stages.set(node, stage);
    for (const value of node.outputs) if (value) computed.set(value, stage);
    for (const value of inputs) {
      const made = computed.get(value)!;
      if (made < stage) handedOn[made]!.set(value, Math.max(stage, handedOn[made]!.get(value) ?? 0));
    }
  }
  const first = new Map<Value, number>();
  for (const [node, acts] of reads)
    for (const value of acts) first.set(value, Math.min(stages.get(node)!, first.get(value) ?? last + 1));
  return {
    count: last + 1,
    stageOf: (node) => stages.get(node) ?? null,
    firstStage: (value) => first.get(value) ?? last + 1,
    handedOn,
  };
}
