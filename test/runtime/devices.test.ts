import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { inspect } from '../../src/index.ts';
import { Builder } from '../../src/onnx/builder.ts';
import { Graph } from '../../src/onnx/graph.ts';
import { missingKernels } from '../../src/runtime/deviceKernels.ts';
import { type Outcome, run } from '../cli/builtCli.ts';
import { put } from '../cli/refusals.ts';

/** The software Vulkan driver of Debian's chromium; a process has to start with it. */
const driver = '/usr/lib/chromium/vk_swiftshader_icd.json';
const swiftshader = { VK_ICD_FILENAMES: driver, LD_LIBRARY_PATH: '/usr/lib/chromium' };
const cudaMachine = existsSync('/proc/driver/nvidia/version');

const dir = mkdtempSync(join(tmpdir(), 'onnx-alora-devices-'));
afterAll(() => rmSync(dir, { recursive: true }));

function train(device: string, output: string, env: NodeJS.ProcessEnv = {}): Promise<Outcome> {
  put(
    dir,
    `${output}.yaml`,
    `model: {path: ${resolve('fixtures/models/llama')}}
data: {task: text, train: ${resolve('fixtures/traces/text.jsonl')}, dev: ${resolve('fixtures/traces/dev.jsonl')}, maxLength: 16, shuffle: false, maxRows: {dev: 2}}
budget: {rank: 2}
train: {steps: 3, batchSize: 2, learningRate: 2e-2, warmup: 0, evalEvery: 0, checkpointEvery: 0, sample: false}
runtime: {device: ${device}, threads: 1}
output: ${output}
`,
  );
  return run(dir, ['train', `${output}.yaml`], env);
}

interface Event {
  readonly event: string;
  readonly loss: number;
  readonly gradNorm?: number;
}
const events = (output: string): Event[] =>
  readFileSync(join(dir, output, 'metrics.jsonl'), 'utf8')
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line));

async function followsTheCpu(device: string, env: NodeJS.ProcessEnv = {}): Promise<void> {
  const outcomes = await Promise.all([train('cpu', `${device}-cpu`), train(device, device, env)]);
  for (const { code, stderr } of outcomes) expect([code, stderr]).toEqual([0, expect.anything()]);
  const [cpu, other] = [events(`${device}-cpu`), events(device)];
  expect(other.map(({ event }) => event)).toEqual(['eval', 'step', 'step', 'step', 'eval']);
  other.forEach(({ loss, gradNorm = 0 }, i) => {
    // Products summed in another order; three steps of AdamW divide small gradients by their own size.
    expect(Math.abs(loss - cpu[i]!.loss)).toBeLessThan(1e-4);
    expect(Math.abs(gradNorm - (cpu[i]!.gradNorm ?? 0))).toBeLessThan(1e-4);
  });
  expect(other[4]!.loss).toBeLessThan(other[0]!.loss);
}

describe.skipIf(!existsSync(driver))('runtime.device: webgpu (needs the Vulkan driver of chromium)', () => {
  it('trains with the losses of the CPU', () => followsTheCpu('webgpu', swiftshader));
});

describe('runtime.device: cuda', () => {
  const saysHowToInstallIt = async () => {
    const { code, stderr } = await train('cuda', 'none');
    expect(code).toBe(3);
    expect(stderr).toMatch(/error\[DEVICE_UNAVAILABLE\]: The device cuda is not available/);
    expect(stderr).toMatch(/where: +none\.yaml:\d+:\d+ \(runtime\.device\)/);
    expect(stderr).toMatch(/npm install onnxruntime-node --onnxruntime-node-install=cuda12/);
    expect(existsSync(join(dir, 'none'))).toBe(false);
  };
  // An NVIDIA driver calls for ONNX Runtime's CUDA libraries too: a machine has one of the two to show.
  if (cudaMachine) it('trains with the losses of the CPU', () => followsTheCpu('cuda'));
  else it('says how to install it, with exit code 3 and no output folder', saysHowToInstallIt);
});

describe('inspect --device', () => {
  it('lists what the device leaves to the CPU', async () => {
    const { stdout } = await run(dir, ['inspect', resolve('fixtures/models/llama'), '--device', 'webgpu']);
    expect(stdout).toMatch(/webgpu has a kernel for every operator of a step/);
    const encoder = await inspect('fixtures/backbones/minilm', { device: 'webgpu' });
    expect(encoder.onCpu).toEqual([]);
    expect(encoder.memory.activations).toBeGreaterThan(0);
    const graph = new Graph();
    const build = new Builder(graph, '');
    const x = graph.input('x', 'float32', [2, 3]);
    const float = { dtype: 'float32' } as const;
    const y = build.op(
      'LogSoftmax',
      [build.op('FusedMatMul', [x, x], { ...float, domain: 'com.microsoft' })],
      float,
    );
    graph.outputs = [
      build.op('Add', [build.op('LogSoftmax', [y], float), x], float),
      build.op('NonZero', [x], { dtype: 'int64' }),
    ];
    expect(missingKernels(graph, 'webgpu')).toMatchObject([
      { op: 'LogSoftmax', nodes: 2 },
      { op: 'com.microsoft.FusedMatMul', nodes: 1 },
    ]);
    expect(missingKernels(graph, 'cpu')).toEqual([]);
  });
});
