import type { TargetModule } from './module.ts';
import type { GraphRewriter, Initializer, Injection } from './strategy.ts';

/** How low-rank factors are injected. */
export interface LowRankOptions {
  /** Rows of A, [rank, in]. Default: uniform in +-1/sqrt(in), which is kaiming-uniform with a = sqrt(5). */
  readonly initA?: Initializer;
  /** Rows of B, [rank, out]. Default: zeros, so that the adapter starts without effect. */
  readonly initB?: Initializer;
  readonly gate?: { readonly trained: boolean; readonly init: Initializer; readonly group?: string };
  /** s, unless the run starts from an adapter, whose scale holds. Default: `graph.scaling(module)`. */
  readonly scaling?: number;
}

/** PEFT's start of lora_A (tuners/lora/layer.py): the bound depends on `in` only, so rows can be drawn singly. */
export function kaimingUniform(module: TargetModule): Initializer {
  return { kind: 'uniform', bound: 1 / Math.sqrt(module.in) };
}

/**
 * y + s * (x A^T * g) B, the form that all shipped strategies share (ALGORITHMS: z = x A diag(g) B).
 * x: [..., in], A: [rank, in], g: [rank], B: [rank, out]; rank is symbolic and may be 0.
 */
export function injectGatedLowRank(
  graph: GraphRewriter,
  module: TargetModule,
  options: LowRankOptions = {},
): Injection {
  const a = graph.parameter(module, {
    role: 'lora_A',
    rows: 'rank',
    width: module.in,
    matrix: true,
    init: options.initA ?? kaimingUniform(module),
    trained: true,
  });
  const gate = graph.parameter(module, {
    role: 'gate',
    rows: 'rank',
    width: 1,
    init: { kind: 'ones' },
    trained: false,
    ...options.gate,
  });
  const b = graph.parameter(module, {
    role: 'lora_B',
    rows: 'rank',
    width: module.out,
    matrix: true,
    init: options.initB ?? { kind: 'zeros' },
    growth: { kind: 'zeros' },
    trained: true,
  });
  const u = graph.op('MatMul', [graph.input(module), graph.op('Transpose', [a], { perm: [1, 0] })]);
  const scaling = graph.inheritedScaling(module) ?? options.scaling ?? graph.scaling(module);
  const scaledGate = scaling === 1 ? gate : graph.op('Mul', [gate, graph.scalar(scaling)]);
  const delta = graph.op('MatMul', [graph.op('Mul', [u, scaledGate]), b]);
  graph.replaceOutput(module, graph.op('Add', [graph.output(module), delta]));
  return {
    module,
    parameters: new Map([
      ['lora_A', a],
      ['gate', gate],
      ['lora_B', b],
    ]),
    scaling,
  };
}
