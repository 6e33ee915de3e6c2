import { biasReaders } from '../adapters/mergePlan.ts';
import type { LinearModule, ModuleUse, TargetModule } from '../adapters/module.ts';
import { headWeight } from '../adapters/quantGrid.ts';
import { parameterInput } from '../adapters/rewriter.ts';
import type { ParameterSpec } from '../adapters/strategy.ts';
import { constantOf, unrounded } from '../adapters/targets.ts';
import { Builder } from '../onnx/builder.ts';
import type { Graph, Node, Value } from '../onnx/graph.ts';
import type { Tensor } from '../onnx/tensor.ts';

/** A head that trains in full: its parameters are graph inputs that start at the given values. */
export interface TrainedHead {
  readonly module: TargetModule;
  readonly parameters: readonly { readonly spec: ParameterSpec; readonly start: Float32Array | null }[];
  /** How `weight` is stored here; PEFT keeps [out, in]. */
  readonly layout: 'in-out' | 'out-in';
}

/**
 * Gives a linear layer float32 graph inputs `<module>.weight` and `.bias` in the place of its constants, quantised ones
 * too. As in PEFT, which trains a copy of the module, whatever else reads the constants (the token embedding, another
 * layer) keeps them. Errors: MODEL_HEAD_FORM.
 */
export function trainInFull(graph: Graph, module: LinearModule): TrainedHead {
  const { weight, bias, uses } = module;
  const { values, layout } = headWeight(module);
  // A head of floats reads floats, as in the merged file.
  if (weight.storage !== 'float') for (const { node } of uses) node.setInput(0, unrounded(node.inputs[0]!));
  const constants = [
    { role: 'weight', value: weight.value, start: values, readers: ({ node }: ModuleUse) => [node] },
    ...(bias
      ? [{ role: 'bias', value: bias, start: bias.initializer!.toFloat32(), readers: biasReaders }]
      : []),
  ];
  const parameters = constants.map(({ role, value, start, readers }) => {
    const tensor = value.initializer!;
    const name = parameterInput(module, role);
    // In torch exports the constant has the parameter's name.
    if (value.name === name) value.name = graph.unique(`${name}/frozen`);
    const input = graph.input(name, 'float32', tensor.dims);
    input.name = name;
    for (const use of uses) for (const node of readers(use)) readInstead(graph, node, tensor, input);
    if (value.users.size === 0) graph.initializers.delete(value);
    const [rows, width] = tensor.dims.length === 2 ? [tensor.dims[0]!, tensor.dims[1]!] : [tensor.size, 1];
    return { spec: headParameter(role, rows, width), start };
  });
  return { module, parameters, layout };
}

/** Makes a node read `input` where it reads the constant or a copy of it, directly or through views. */
function readInstead(graph: Graph, node: Node, tensor: Tensor, input: Value): void {
  node.inputs.forEach((value, i) => {
    const constant = constantOf(value);
    if (!constant || !isCopy(constant.tensor, tensor)) return;
    const turned = () =>
      new Builder(graph, `/${input.name}`).op('Transpose', [input], { attributes: { perm: [1, 0] } });
    node.setInput(i, constant.transposed ? turned() : input);
  });
}

/** torchscript writes the weight of a layer that several blocks share once for each of them. */
function isCopy(a: Tensor, b: Tensor): boolean {
  return (
    a === b ||
    (a.dtype === b.dtype && a.dims.join() === b.dims.join() && Buffer.compare(a.bytes(), b.bytes()) === 0)
  );
}

/** A parameter of a head: `weight` [rows, width] or `bias` [rows]. */
export function headParameter(role: string, rows: number, width: number): ParameterSpec {
  // transformers' initializer_range for a fresh head.
  const init = role === 'weight' ? ({ kind: 'normal', std: 0.02 } as const) : ({ kind: 'zeros' } as const);
  return { role, rows, width, matrix: role === 'weight', init, trained: true };
}
