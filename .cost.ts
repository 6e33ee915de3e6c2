import { resolveRunConfig } from './src/config/resolve.ts';
import { lora } from './src/strategies.ts';
import { assemble, openModel } from './src/training/assemble.ts';
import { modelFolder, models } from './bench/cases.ts';
const [name, threads] = [process.argv[2]!, Number(process.argv[3])];
const strategies = { lora };
const path = name in models ? modelFolder(name) : name;
const config = resolveRunConfig({
  model: { path, targets: name in models ? [...models[name]!.targets] : 'all-linear' }, data: { task: name === 'bert' ? 'classification' : 'text', train: 'none.jsonl' },
  adapter: { strategy: 'lora', modulesToSave: name in models ? [...models[name]!.modulesToSave]: [] }, budget: { rank: 8 }, train: { steps: 3 }, runtime: { threads } }, { strategies });
const run = assemble(openModel(config.model), config, { strategies, length: { totalSteps: 3, stepsPerEpoch: 3 } });
console.log(name, 'parameters', run.backbone.parameters, 'threads', threads);
const shapes = process.argv[4]!.split(',').map((s) => s.split('x').map(Number));
for (const [size, length] of shapes as [number, number][]) {
  const n = size * length;
  const rows: number[] = [];
  if (name === 'bert') for (let b = 0; b < size; b++) rows.push(b);
  else for (let b = 0; b < size; b++) for (let t = Math.floor(length * 0.7); t < length - 1; t++) rows.push(b * length + t);
  const batch = { size, length, inputIds: BigInt64Array.from({ length: n }, (_, i) => BigInt((i * 7) % 1000)), attentionMask: new BigInt64Array(n).fill(1n),
    positionIds: BigInt64Array.from({ length: n }, (_, i) => BigInt(i % length)), rows: BigInt64Array.from(rows, BigInt), targets: BigInt64Array.from(rows, (r) => name === 'bert' ? 1n : BigInt(r % 1000)) };
  const ts: number[] = []; const cs: number[] = [];
  const reps = Math.max(3, Math.min(40, Math.round(40000000000 / run.backbone.parameters / n)));
  for (let i = 0; i <= reps; i++) { const b = performance.now(), u = process.cpuUsage(); await run.runtime.step(batch, { loss: 1 / rows.length, penalty: 1 }); const c = process.cpuUsage(u); if (i) { ts.push(performance.now() - b); cs.push((c.user + c.system) / 1000); } }
  const med = (x: number[]) => x.sort((a, b) => a - b)[Math.floor(x.length / 2)]!;
  console.log(`${size}x${length} tokens ${n} wall ${med(ts).toFixed(1)} cpu ${med(cs).toFixed(1)} cpu/token ${(med(cs) / n).toFixed(3)}`);
}
await run.close();
