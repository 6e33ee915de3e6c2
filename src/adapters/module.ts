import type { Node, Value } from '../onnx/graph.ts';
import type { Tensor } from '../onnx/tensor.ts';
import type { Packing } from './packing.ts';

/** A weight matrix that an adapter can be put beside: y = x W + b becomes y + s (x A diag(g)) B. */
export interface TargetModule {
  /** The path that PEFT would use, without `base_model.model.`: `model.layers.0.self_attn.q_proj`. */
  readonly name: string;
  /** Position among the modules of the same list, in graph order. */
  readonly index: number;
  /** Length of the module's input vectors. */
  readonly in: number;
  /** Length of its output vectors. */
  readonly out: number;
  /** Index of the block (layer) that it stands in; null outside the blocks. */
  readonly block: number | null;
  /** Name within the block, `self_attn.q_proj`; outside the blocks the whole name. */
  readonly kind: string;
}

/**
 * What a linear layer is to the model. `lm_head`: the output embedding; `head`: a task's head (classifier,
 * score, qa_outputs), which PEFT trains fully rather than adapting it.
 */
export type ModuleRole = 'linear' | 'lm_head' | 'head';

/** Where a layer's weight lies and how it is stored. */
export interface ModuleWeight {
  /** The initializer, or the output of a Constant node. */
  readonly value: Value;
  readonly tensor: Tensor;
  /** `in-out`: W [in, out] as MatMul takes it; `out-in`: its transpose, as torch.nn.Linear keeps it. */
  readonly layout: 'in-out' | 'out-in';
  /** `float`: the values themselves; `int8`, `blocked`: quantised, with scales beside them. */
  readonly storage: 'float' | 'int8' | 'blocked';
}

/** One application of a linear layer in the graph. */
export interface ModuleUse {
  readonly node: Node;
  /** The layer's input, [..., in]. */
  readonly input: Value;
  /** What an adapter's delta is added to, [..., out]; with or without the bias, which makes no difference. */
  readonly output: Value;
  /** Uses of one layer may read copies of its weight: torchscript writes one for each. */
  readonly weight: ModuleWeight;
}

/** A linear layer found in a graph. */
export interface LinearModule extends TargetModule, ModuleUse {
  readonly role: ModuleRole;
  /** Constant bias [out], if the layer has one. */
  readonly bias: Value | null;
  /** Every use of the layer; more than one where layers share their weights (ALBERT). The first is `node`. */
  readonly uses: readonly ModuleUse[];
  /** Whether the original keeps W as [in, out] (GPT-2's Conv1D), which PEFT calls fan_in_fan_out. */
  readonly fanInFanOut: boolean;
  /** Of a fused projection that is split: the layer, how it is packed, and which part this is. */
  readonly part?: { readonly of: LinearModule; readonly packing: Packing; readonly position: number };
}

/** config.json of a model directory; an empty object where there is none. */
export type ModelConfig = Readonly<Record<string, unknown>>;
