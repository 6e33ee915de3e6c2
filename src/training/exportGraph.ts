import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import { fillNewFolder, writeFileAtomic } from '../atomicFiles.ts';
import type { RunConfig } from '../config/schema.ts';
import type { Model, Value } from '../onnx/graph.ts';
import { lower } from '../passes/lower.ts';
import { inputNames, outputNames } from '../runtime/adaptedModel.ts';
import { gateGradientGraph, logitsGraph, stepGraph } from '../runtime/trainingGraph.ts';
import { openWorkspace } from '../runtime/workspace.ts';
import { saveRunAdapter } from './adapterFiles.ts';
import type { StrategyRegistry } from './assemble.ts';
import { prepareRun } from './prepareRun.ts';

/** What was written. */
export interface ExportResult {
  readonly folder: string;
  readonly files: readonly string[];
}

/** What each input and output is for, so that a trainer in any language can feed the graphs. */
const meanings: Readonly<Record<string, string>> = {
  [inputNames.rows]:
    'where a token is predicted: positions in the flattened [batch * length], each before its trained token; rows for classification',
  decoder_input_ids:
    'of an encoder-decoder: start token, then the completion without its last token; rows count its positions',
  [inputNames.targets]: 'the token that follows at each of rows, or the class',
  [inputNames.lossScale]:
    'weight of one trained token in the gradient: 1 / trained tokens of the optimizer step',
  [inputNames.penaltyScale]: "weight of the strategy's penalty: 1 on one micro-batch of a step, else 0",
  [outputNames.losses]: 'cross-entropy at each of rows, in nats',
  [outputNames.predictions]: 'most likely token or class at each of rows',
  [outputNames.rowLogits]: 'logits at each of rows',
};

/**
 * Writes the graphs of a run as plain ONNX files with a manifest: the training step and gate gradients in operators
 * of ai.onnx, evaluation with the fused operators of the model's file, one shared weight file, and the initial
 * adapter in PEFT format. Errors: those of planning a run, OUTPUT_EXISTS.
 */
export async function exportRunGraph(
  config: RunConfig,
  strategies: StrategyRegistry,
  out: string,
): Promise<ExportResult> {
  return fillNewFolder(out, () => writeGraphs(config, strategies, out));
}

async function writeGraphs(
  config: RunConfig,
  strategies: StrategyRegistry,
  out: string,
): Promise<ExportResult> {
  const workspace = openWorkspace({ folder: out });
  const run = await prepareRun(config, strategies, { workspace, elsewhere: true });
  try {
    const hasGates = run.adapters.modules.every((module) => run.adapters.has(module, 'gate'));
    const { device } = config.runtime;
    const graphs: Record<string, Model> = {
      step: standard(stepGraph(run.adapted, { ...config.train, device })),
      evaluation: logitsGraph(run.adapted),
      ...(hasGates ? { 'gate-gradients': standard(gateGradientGraph(run.adapted, { device })) } : {}),
    };
    const described = Object.entries(graphs).map(([name, model]) => {
      workspace.write(name, model);
      return [
        name,
        {
          file: `${name}.onnx`,
          inputs: model.graph.inputs.filter((value) => !value.initializer).map(describeValue),
          outputs: model.graph.outputs.map(describeValue),
        },
      ] as const;
    });
    saveRunAdapter(join(out, 'adapter'), run);
    const manifest = {
      format: 1,
      strategy: run.strategy.name,
      opset: run.backbone.model.opsets.get(''),
      graphs: Object.fromEntries(described),
      budget: run.budget,
      modules: run.adapters.modules.map((module) => ({
        name: module.name,
        index: module.index,
        in: module.in,
        out: module.out,
        block: module.block,
        kind: module.kind,
        // Graph inputs `<module>.<role>`, gradients `<module>.<role>.gradient`; rows that are `rank` may change.
        parameters: run.adapted.parameters.get(module),
        rank: run.adapters.rank(module),
        scaling: run.scaling(module),
      })),
      adapter: 'adapter',
    };
    writeFileAtomic(join(out, 'manifest.json'), `${JSON.stringify(manifest, null, 2)}\n`);
    return { folder: out, files: readdirSync(out).sort() };
  } finally {
    await run.close();
  }
}

/** Rotary embeddings, one operator of ONNX Runtime's own here, become operators of ai.onnx, which all runtimes know. */
function standard(model: Model): Model {
  lower(model);
  return model;
}

function describeValue(value: Value) {
  return { name: value.name, dtype: value.dtype, shape: value.shape, meaning: meanings[value.name] };
}
