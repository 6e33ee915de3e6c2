import { cpSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import type { LinearModule } from '../../src/adapters/module.ts';
import { findLinearModules } from '../../src/adapters/targets.ts';
import { Builder } from '../../src/onnx/builder.ts';
import { readModel } from '../../src/onnx/decode.ts';
import { writeModel } from '../../src/onnx/encode.ts';
import { Tensor } from '../../src/onnx/tensor.ts';
import { prune } from '../../src/passes/prune.ts';
import { configOf } from './original.ts';

const packings = {
  'attn/qkv_proj': ['self_attn.q_proj', 'self_attn.k_proj', 'self_attn.v_proj'],
  'mlp/gate_up_proj': ['mlp.gate_proj', 'mlp.up_proj'],
} as const;
type PackedLayer = keyof typeof packings;

/** Writes the tiny Llama to `folder` with layers packed into one product, as the genai builder does; returns `folder`. */
export function packLlama(folder: string, layers: readonly PackedLayer[] = ['attn/qkv_proj']): string {
  cpSync('fixtures/models/llama', folder, { recursive: true });
  rmSync(join(folder, 'onnx/model_fp16.onnx'), { force: true });
  const path = join(folder, 'onnx/model.onnx');
  const model = readModel(path);
  const { graph } = model;
  const modules = findLinearModules(model, configOf(folder));
  for (const i of [0, 1])
    for (const layer of layers) {
      const parts = packings[layer].map(
        (part) => modules.find(({ name }) => name === `model.layers.${i}.${part}`)!,
      );
      const [{ in: width, input }] = parts as [LinearModule];
      const out = parts.reduce((sum, part) => sum + part.out, 0);
      const weight = new Float32Array(width * out);
      let column = 0;
      for (const part of parts) {
        const values = part.weight.tensor.toFloat32();
        for (let row = 0; row < width; row++)
          for (let j = 0; j < part.out; j++) weight[row * out + column + j] = values[row * part.out + j]!;
        column += part.out;
      }
      const make = new Builder(graph, `/model/layers.${i}/${layer}`);
      const constant = graph.constant(
        `model.layers.${i}.${layer.replace('/', '.')}.MatMul.weight`,
        Tensor.float32(weight, [width, out]),
      );
      const y = make.op('MatMul', [input, constant], { name: 'MatMul' });
      const split = make.node('Split', [y, make.ints(parts.map((part) => part.out))], parts.length, {
        attributes: { axis: -1 },
      });
      parts.forEach((part, p) => {
        graph.replaceUses(part.output, split.outputs[p]!);
      });
    }
  graph.sort();
  prune(graph);
  writeModel(model, path);
  return folder;
}
