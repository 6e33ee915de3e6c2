import { cpSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { AloraError } from '../../src/errors.ts';
import { Builder } from '../../src/onnx/builder.ts';
import { Graph } from '../../src/onnx/graph.ts';
import { Tensor } from '../../src/onnx/tensor.ts';
import { lower } from '../../src/passes/lower.ts';
import { openModel } from '../../src/training/assemble.ts';
import { requireTrainableHead } from '../../src/training/heads.ts';
import { modelOf } from '../passes/models.ts';
import type { Refusal } from './table.ts';

/** The error of something that must be refused, as one line without paths. */
async function sentenceOf(attempt: () => unknown): Promise<string> {
  try {
    await attempt();
  } catch (error) {
    if (error instanceof AloraError)
      return `\`${error.code}\`: ${error.message}. ${error.details.fix ?? ''}`.trim();
    throw error;
  }
  throw new Error('nothing was refused');
}

const head = (architecture: string) => () =>
  requireTrainableHead({ folder: resolve('fixtures'), config: { architectures: [architecture] } });

/** A decoder file alone, as another program may have left it. */
function withoutEncoder() {
  const folder = mkdtempSync(join(tmpdir(), 'onnx-alora-alone-'));
  try {
    cpSync('fixtures/backbones/bart/onnx/decoder_model.onnx', join(folder, 'decoder_model.onnx'));
    openModel({ path: folder });
  } finally {
    rmSync(folder, { recursive: true });
  }
}

/** A MatMulNBits of 32 -> 8 with changes. */
function blocked(attributes: Record<string, number>, reordered = false) {
  const graph = new Graph('blocked');
  const make = new Builder(graph, 'blocked');
  const x = graph.input('x', 'float32', ['rows', 32]);
  const inputs = [
    x,
    make.constant('w', new Tensor('uint8', [8, 1, 16], new Uint8Array(128))),
    make.constant('scales', Tensor.float32(new Float32Array(8).fill(1), [8])),
    null,
    reordered ? make.constant('g_idx', Tensor.of('int32', new Int32Array(32), [32])) : null,
  ];
  const node = make.node('MatMulNBits', inputs, 1, {
    name: 'proj',
    domain: 'com.microsoft',
    attributes: { K: 32, N: 8, bits: 4, block_size: 32, ...attributes },
  });
  graph.outputs = [node.output];
  return () => lower(modelOf(graph));
}

/** Each thing that is refused, with the error that a user reads. */
export async function refusals(): Promise<Refusal[]> {
  const all: readonly (readonly [string, () => unknown])[] = [
    ['BertForMaskedLM and the like', head('BertForMaskedLM')],
    ['ViTForImageClassification and the like', head('ViTForImageClassification')],
    ['Wav2Vec2ForCTC and the like', head('Wav2Vec2ForCTC')],
    ['The decoder of an encoder-decoder without its encoder', withoutEncoder],
    ['4 bits with reordered groups (GPTQ with act-order)', blocked({}, true)],
    ['4 bits packed for one kind of GPU', blocked({ weight_prepacked: 1 })],
    ['3-bit weights', blocked({ bits: 3 })],
  ];
  const rows = [];
  for (const [what, attempt] of all) rows.push({ what, sentence: await sentenceOf(attempt) });
  return rows;
}
