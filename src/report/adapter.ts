import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { weightsFile } from '../adapters/peft.ts';
import { readSafetensors } from '../adapters/safetensors.ts';

/** Shape of one module's adapter as it lies on the disk. */
export interface AdapterShape {
  readonly rank: number;
  readonly in: number;
  readonly out: number;
}

const factor = /^(?:base_model\.model\.)?(.+)\.lora_(A|B)(?:\.weight)?$/;

/**
 * Ranks and sizes by module of a PEFT folder, from its tensors' shapes: lora_A is [rank, in], lora_B is [out, rank].
 * Only looks: unlike `readPeft` it repairs nothing, since the run may be writing that folder right now. Undefined
 * where there is no such file; throws where it is damaged.
 */
export function readAdapterShapes(folder: string): Map<string, AdapterShape> | undefined {
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
  return shapes;
}
