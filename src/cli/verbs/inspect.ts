import { type Command, Option } from 'commander';
import { bytes, plural, rounded, thousands } from '../format.ts';
import { example, integer, jsonOption, printJson } from '../options.ts';
import { type Line, panel } from '../panel.ts';
import { shortPath } from '../paths.ts';
import { table } from '../table.ts';
import { coloursFor, isLive, widthOf } from '../terminal.ts';
import { namedByFlags } from '../typed.ts';

interface Options {
  readonly targets: string;
  readonly file?: string;
  readonly rows: number;
  readonly length: number;
  readonly recompute?: boolean;
  readonly compute: 'float32' | 'int8';
  readonly device?: 'cpu' | 'cuda' | 'webgpu';
  readonly json?: boolean;
}

export function addVerb(program: Command): void {
  const command = program
    .command('inspect')
    .argument('<model>', 'model directory or .onnx file')
    .description('backbone, target modules with the cost of a rank, operators without a gradient, memory')
    .option(
      '--targets <list>',
      'all-linear, or name endings and regular expressions with commas',
      'all-linear',
    )
    .option('--file <name>', 'ONNX file inside the directory')
    .option('--rows <n>', 'rows of a batch, for the memory estimate', integer(1), 16)
    .option('--length <n>', 'tokens of a row, for the memory estimate', integer(1), 128)
    .option('--recompute', 'estimate the memory with train.recompute')
    .addOption(
      new Option('--compute <type>', 'estimate the memory with model.compute')
        .choices(['float32', 'int8'])
        .default('float32'),
    )
    .addOption(
      new Option('--device <device>', 'list operators that this device leaves to the CPU').choices([
        'cpu',
        'cuda',
        'webgpu',
      ]),
    )
    .addOption(jsonOption())
    .action((path: string, options: Options) => inspectModel(path, options));
  example(command, 'npx onnx-alora inspect models/gpt2 --targets c_attn,c_proj');
}

async function inspectModel(
  path: string,
  { targets, file, rows, length, recompute, compute, device, json }: Options,
): Promise<void> {
  const { inspect } = await import('../../index.ts');
  const list = targets === 'all-linear' ? targets : targets.split(',').map((word) => word.trim());
  const named = namedByFlags({
    'model.path': '<model>',
    'model.file': '--file',
    'model.targets': '--targets',
    'model.compute': '--compute',
  });
  const inspection = inspect(path, {
    targets: list,
    file,
    batchSize: rows,
    maxLength: length,
    recompute,
    compute,
    device,
  });
  const model = await named(inspection);
  if (json) return printJson(model);
  const out = process.stdout;
  const colours = coloursFor(out);
  const chosen = model.modules.filter((module) => module.target);
  const others = model.modules.filter((module) => !module.target);
  const { memory } = model;
  const lines: Line[] = [
    ['file', `${model.file} · opset ${model.opset} · ${model.producer}`],
    ['backbone', `${model.backbone} · ${rounded(model.parameters)} parameters${context(model)}`],
    ['graph', `${model.inputs.join(' ')} -> ${model.output}`],
    [
      'targets',
      `${plural(chosen.length, 'module')} · one rank on each costs ${thousands(model.costOfUniformRank)} trained scalars, rank 8 ${thousands(8 * model.costOfUniformRank)}`,
    ],
    [
      'memory',
      `about ${bytes(memory.total)} to train ${memory.batchSize} rows of ${memory.maxLength} tokens: weights ${bytes(memory.weights)}, activations ${bytes(memory.activations)}`,
    ],
  ];
  if (others.length > 0) lines.push(['not adapted', others.map((module) => module.name).join(' ')]);
  out.write(`${panel(shortPath(model.folder), lines, widthOf(out), isLive(out), colours)}\n\n`);
  const cells = chosen.map((m) => [m.name, ...[m.in, m.out, m.costOfOneRank].map(thousands)]);
  out.write(`${table(['module', 'in', 'out', 'cost of a rank'], cells, 'lrrr', colours)}\n\n`);
  if (model.uncovered.length === 0) out.write('every operator on the way to the loss has a gradient\n');
  for (const { op, node } of model.uncovered)
    out.write(`${colours.yellow('no gradient')}: ${op} at ${node}\n`);
  if (device && model.onCpu.length === 0) out.write(`${device} has a kernel for every operator of a step\n`);
  for (const { op, nodes, example } of model.onCpu)
    out.write(`${colours.yellow('on the CPU')}: ${op}, ${plural(nodes, 'node')}, the first ${example}\n`);
}

const context = ({ contextLength }: { contextLength: number | undefined }): string =>
  contextLength === undefined ? '' : ` · at most ${thousands(contextLength)} tokens`;
