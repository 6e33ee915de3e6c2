// One process, one configuration: takes a case as JSON on standard input, prints one line of JSON.
import { readFileSync } from 'node:fs';
import { adamWStep, clipGradients, gradientNorm } from '../src/training/adamw.ts';
import { assemble, openModel } from '../src/training/assemble.ts';
import type { StepCase } from './cases.ts';
import type { Measured } from './processes.ts';
import { batchOf, configOf, strategies, watchSessions } from './training.ts';

const step = JSON.parse(readFileSync(0, 'utf8')) as StepCase;
const { steps } = step;
const config = configOf(step);

let secondsRunning = 0;
watchSessions({
  onRun: ({ begun, ended }) => {
    secondsRunning += (ended - begun) / 1000;
  },
});

const started = performance.now();
const opened = openModel(config.model);
const loaded = performance.now();
const run = assemble(opened, config, { strategies, length: { totalSteps: steps, stepsPerEpoch: steps } });
await run.runtime.open();
const ready = performance.now();

const total: number[] = [];
const outside: number[] = [];
const cpu: number[] = [];
let loss = Number.NaN;
for (let i = 0; i <= steps; i++) {
  const batch = batchOf(step, i);
  const begun = performance.now();
  const used = process.cpuUsage();
  const { adapters } = run;
  adapters.gradients.fill(0);
  secondsRunning = 0;
  const losses = await run.runtime.step(batch, { loss: 1 / batch.rows.length, penalty: 1 });
  loss = losses.reduce((sum, value) => sum + value, 0) / losses.length;
  clipGradients(adapters, gradientNorm(adapters), 1);
  adamWStep(adapters, 1, { learningRate: 1e-4, weightDecay: 0, groups: {} });
  const seconds = (performance.now() - begun) / 1000;
  // The first step warms the allocator.
  if (i === 0) continue;
  total.push(seconds);
  const { user, system } = process.cpuUsage(used);
  cpu.push((user + system) / 1e6);
  outside.push(seconds - secondsRunning);
}
await run.close();
const measured: Measured = {
  steps: total,
  outside,
  cpu,
  peak: process.resourceUsage().maxRSS * 1024,
  loadSeconds: (loaded - started) / 1000,
  buildSeconds: (ready - loaded) / 1000,
  loss,
};
console.log(JSON.stringify(measured));
