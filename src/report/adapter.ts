import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { layersOfSaved, readRankCounts } from '../adapters/packAdapter.ts';
import { weightsFile } from '../adapters/peft.ts';
import { readSafetensors } from '../adapters/safetensors.ts';

/** One module's adapter as it lies on the disk. */
export interface SavedModule {
  readonly rank: number;
  /** in + out; undefined for a part of a layer that is saved as one. */
  readonly size?: number;
}

const factor = /^(?:base_model\.model\.)?(.+)\.lora_(A|B)(?:\.weight)?$/;

/**
 * Ranks and sizes of a PEFT folder by the modules of its run (`known`), from its tensors' shapes: lora_A is [rank, in],
 * lora_B is [out, rank]. Only looks: unlike `readPeft` it repairs nothing, since the run may be writing that folder
 * right now. Undefined where there is no such file; throws where it is damaged.
 */
export function readSavedModules(
  folder: string,
  known: { has(name: string): boolean },
): Map<string, SavedModule> | undefined {
  const path = join(folder, weightsFile);
  if (!existsSync(path)) return undefined;
  const shapes = new Map<string, { rank: number; in: number; out: number }>();
  for (const [name, { dims }] of readSafetensors(path).tensors) {
    const match = factor.exec(name);
    if (!match || dims.length !== 2) continue;
    const shape = shapes.get(match[1]!) ?? { rank: 0, in: 0, out: 0 };
    if (match[2] === 'A') [shape.rank, shape.in] = [dims[0]!, dims[1]!];
    else shape.out = dims[0]!;
    shapes.set(match[1]!, shape);
  }
  const counts = readRankCounts(folder);
  const saved = new Map<string, { rank: number; size?: number }>();
  for (const [name, shape] of shapes) {
    const isSplit = counts?.[name] && !known.has(name);
    for (const [layer, rank] of layersOfSaved(name, shape.rank, known, counts)) {
      const packed = saved.get(layer);
      if (packed?.size !== undefined) packed.size += shape.out;
      else saved.set(layer, isSplit ? { rank } : { rank, size: shape.in + shape.out });
    }
  }
  return saved;
}
