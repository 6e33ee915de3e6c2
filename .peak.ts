import { modelFolder, models, shape } from './bench/cases.ts';
import { resolveRunConfig } from './src/config/resolve.ts';
import { lora } from './src/strategies.ts';
import { assemble, openModel } from './src/training/assemble.ts';
import { stepGraph } from './src/runtime/trainingGraph.ts';
import { executionOrder } from './src/passes/executionOrder.ts';
import { chunkLengths } from './src/autodiff/chunkedLoss.ts';
import { peakTensors } from './.peakTensors.ts';
import { readTransposed } from './src/passes/readTransposed.ts';
import { activationBytes } from './src/runtime/memory.ts';
const [name, labels, rec] = [process.argv[2]!, Number(process.argv[3]), process.argv[4] === 'rec'];
const model = models[name]!;
const strategies = { lora };
const config = resolveRunConfig({
    model: { path: modelFolder(name), targets: [...model.targets] },
    data: { task: name === 'bert' ? 'classification' : 'text', train: 'none.jsonl' },
    adapter: { strategy: 'lora', alpha: 16, modulesToSave: [...model.modulesToSave] },
    budget: { rank: 8 }, train: { steps: 3 }, runtime: { threads: 1 } }, { strategies });
const opened = openModel(config.model);
const run = assemble(opened, config, { strategies, length: { totalSteps: 3, stepsPerEpoch: 3 } });
const g = stepGraph(run.adapted, { recompute: rec });
readTransposed(g, { fused: true });
const lengths: Record<string, number> = { labels, ...chunkLengths('labels', labels) };
for (const input of g.graph.inputs) input.shape?.forEach((dim, axis) => {
  if (typeof dim !== 'string') return;
  if (dim.endsWith('.rank')) lengths[dim] = 8; else if (!(dim in lengths)) lengths[dim] = axis === 0 ? 4 : 128; });
const r = activationBytes(g, lengths);
console.log(name, labels, rec, 'live', (r.live/1e6).toFixed(0), 'arena', (r.arena/1e6).toFixed(0), 'nodes', g.graph.nodes.length);
for (const t of peakTensors(g, lengths).slice(0, 40)) console.log(t);
await run.close();
