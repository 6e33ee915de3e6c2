import { cpSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { resolveRunConfig } from '../../src/config/resolve.ts';
import { loadModel } from '../../src/inference/loadModel.ts';
import { mergeModel } from '../../src/inference/merge.ts';
import { Builder } from '../../src/onnx/builder.ts';
import { readModel } from '../../src/onnx/decode.ts';
import { writeModel } from '../../src/onnx/encode.ts';
import { Tensor } from '../../src/onnx/tensor.ts';
import * as strategies from '../../src/strategies.ts';
import { evaluateRun } from '../../src/training/evaluate.ts';
import { trainRun } from '../../src/training/train.ts';
import { importXenova } from '../xenova.ts';

const scratch = mkdtempSync(join(tmpdir(), 'onnx-alora-new-classifier-'));
afterAll(() => rmSync(scratch, { recursive: true }));

const names = ['good', 'bad', 'odd'];
const rows = join(scratch, 'rows.jsonl');
writeFileSync(
  rows,
  readFileSync('fixtures/traces/classification.jsonl', 'utf8')
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line) as { text: string; label: number })
    .map(({ text, label }) => JSON.stringify({ text, label: names[label % 3] }))
    .join('\n'),
);

/** A folder with one file of a bare encoder. */
function encoder(name: string, file: string): string {
  const folder = join(scratch, `${name}-${file}`);
  cpSync(`fixtures/backbones/${name}/config.json`, join(folder, 'config.json'));
  cpSync(`fixtures/backbones/${name}/onnx/${file}.onnx`, join(folder, 'onnx', `${file}.onnx`));
  for (const part of ['tokenizer.json', 'tokenizer_config.json'])
    cpSync(join('fixtures/models/bert', part), join(folder, part));
  return folder;
}

const run = (model: string, output: string, pooling?: 'cls' | 'mean') =>
  resolveRunConfig(
    {
      model: { path: model, pooling },
      data: { task: 'classification', train: rows, dev: rows, maxLength: 32 },
      adapter: { strategy: 'lora' },
      budget: { rank: 2 },
      train: { steps: 8, batchSize: 8, learningRate: 2e-2, warmup: 0, evalEvery: 8 },
      runtime: { threads: 1 },
      output,
    },
    { strategies },
  );

describe('a new classifier on an encoder without a head', () => {
  it.each([
    ['minilm', 'model', 'mean'],
    ['minilm', 'model', 'cls'],
    ['minilm', 'model_optimized', undefined],
    ['minilm', 'model_attention', undefined],
    ['minilm', 'model_quantized', undefined],
    ['mpnet', 'model', undefined],
  ] as const)(
    '%s, %s, pooling %s: is appended, verified, and gives the same everywhere',
    async (name, file, pooling) => {
      const model = encoder(name, file);
      const output = join(scratch, `${name}-${file}-${pooling}`);
      const config = run(model, output, pooling);
      await trainRun(config, { strategies });
      const adapter = join(output, 'adapter');
      const out = join(output, 'merged');
      const result = await mergeModel({ adapter, model, out, threads: 1 });
      expect(result.classifier).toEqual({ name: 'classifier', classes: 3, files: [`onnx/${file}.onnx`] });
      expect(result.branched).toHaveLength(file === 'model_quantized' ? 1 : 0);
      // Sums in another order; 8-bit activations turn that into a step here and there.
      expect(result.verification[0]!.maxDelta).toBeLessThan(file === 'model_quantized' ? 3e-2 : 1e-4);
      const merged = JSON.parse(readFileSync(join(out, 'config.json'), 'utf8'));
      expect(merged.architectures).toEqual([
        name === 'mpnet' ? 'MPNetForSequenceClassification' : 'BertForSequenceClassification',
      ]);
      expect(Object.values(merged.id2label)).toEqual([...names].sort());

      const tolerance = file === 'model_quantized' ? 2e-2 : 1e-5;
      const before = await evaluateRun(config, { adapter });
      const after = await evaluateRun({
        ...config,
        model: { ...config.model, path: out, pooling: undefined },
      });
      expect(Math.abs(after.loss - before.loss)).toBeLessThan(tolerance);

      const texts = ['one two three', 'four', 'the cat sat'];
      const base = await loadModel(model, { threads: 1 });
      const whole = await loadModel(out, { threads: 1 });
      const xenova = await importXenova();
      const pipe = await xenova.pipeline('text-classification', out.slice(1), {
        quantized: file === 'model_quantized',
        // Names the file of the optimiser, which has no ending that transformers.js knows.
        ...(/optimized|attention/.test(file) ? { model_file_name: file } : {}),
      });
      for (const text of texts) {
        const [beside] = await base.classify([text], { adapter });
        const [inside] = await whole.classify([text]);
        expect(inside!.scores.map(({ label }) => label)).toEqual([...names].sort());
        expect(Math.abs(inside!.score - beside!.score)).toBeLessThan(tolerance);
        expect(inside!.label).toBe(beside!.label);
        const [there] = (await pipe(text)) as { label: string; score: number }[];
        expect(there!.label).toBe(inside!.label);
        expect(Math.abs(there!.score - inside!.score)).toBeLessThan(1e-5);
      }
      await pipe.dispose();
      await base.close();
      await whole.close();
    },
  );
});

it('reads the same output as in training where a file pools its hidden states too', async () => {
  const model = encoder('minilm', 'model');
  const path = join(model, 'onnx/model.onnx');
  const file = readModel(path);
  const { graph } = file;
  const make = new Builder(graph, '/pooled');
  const first = make.constant('first', Tensor.int64([0], []));
  const hidden = graph.findOutput('last_hidden_state')!;
  const pooled = make.op('Neg', [make.op('Gather', [hidden, first], { attributes: { axis: 1 } })], {
    dtype: 'float32',
    shape: [hidden.shape![0]!, hidden.shape![2]!],
  });
  pooled.name = 'sentence_embedding';
  graph.outputs.push(pooled);
  writeModel(file, path);
  const output = join(scratch, 'two-outputs');
  await trainRun(run(model, output), { strategies });
  const adapter = join(output, 'adapter');
  const out = join(output, 'merged');
  await mergeModel({ adapter, model, out, threads: 1 });
  const [base, whole] = [await loadModel(model, { threads: 1 }), await loadModel(out, { threads: 1 })];
  for (const text of ['one two three', 'four']) {
    const [beside] = await base.classify([text], { adapter });
    const [inside] = await whole.classify([text]);
    beside!.scores.forEach(({ score }, i) => {
      // Sums in another order.
      expect(Math.abs(score - inside!.scores[i]!.score)).toBeLessThan(1e-5);
    });
  }
  await base.close();
  await whole.close();
});

describe('a new classifier of tokens', () => {
  const tags = ['B-THING', 'O'];
  const tagged = join(scratch, 'tagged.jsonl');
  writeFileSync(
    tagged,
    ['tree', 'barn', 'bread', 'debt']
      .map((noun) => JSON.stringify({ tokens: ['the', noun, 'was'], tags: ['O', 'B-THING', 'O'] }))
      .join('\n'),
  );

  it.each(['model', 'model_optimized', 'model_attention', 'model_quantized'])(
    '%s: is served, merged and gives the same everywhere',
    async (file) => {
      const model = encoder('minilm', file);
      const config = run(model, join(scratch, `tags-${file}`));
      const tagging = {
        ...config,
        data: { ...config.data, task: 'token-classification', train: tagged, dev: tagged },
      };
      await trainRun(tagging, { strategies });
      const adapter = join(config.output, 'adapter');
      const out = join(config.output, 'merged');
      const result = await mergeModel({ adapter, model, out, threads: 1 });
      expect(result.classifier).toEqual({ name: 'classifier', classes: 2, files: [`onnx/${file}.onnx`] });
      const coarse = file === 'model_quantized';
      // As above.
      expect(result.verification[0]!.maxDelta).toBeLessThan(coarse ? 3e-2 : 1e-4);
      const merged = JSON.parse(readFileSync(join(out, 'config.json'), 'utf8'));
      expect(merged.architectures).toEqual(['BertForTokenClassification']);
      expect(Object.values(merged.id2label)).toEqual(tags);
      const before = await evaluateRun(tagging, { adapter });
      const after = await evaluateRun({ ...tagging, model: { ...tagging.model, path: out } });
      expect(Math.abs(after.loss - before.loss)).toBeLessThan(coarse ? 2e-2 : 1e-5);
      expect(after.metrics).toEqual(before.metrics);

      const base = await loadModel(model, { threads: 1 });
      const whole = await loadModel(out, { threads: 1 });
      // Two rows of unlike lengths: what stands behind the shorter one is padding.
      const texts = ['the tree was', 'the barn'];
      const beside = await base.logits(texts, { adapter });
      const inside = await whole.logits(texts);
      expect(beside.map(({ dims }) => dims)).toEqual(inside.map(({ dims }) => dims));
      expect(beside[0]!.dims[1]).toBe(2);
      beside.forEach(({ data }, row) => {
        for (const [i, value] of data.entries())
          expect(Math.abs(value - inside[row]!.data[i]!)).toBeLessThan(coarse ? 5e-2 : 1e-4);
      });
      const refusal = { code: 'MODEL_NOT_CLASSIFIER', exitCode: 5 };
      await expect(base.classify(texts, { adapter })).rejects.toMatchObject(refusal);
      await expect(whole.classify(texts)).rejects.toMatchObject(refusal);
      await base.close();
      await whole.close();
    },
  );
});
