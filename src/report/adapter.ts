import { open } from 'node:fs/promises';
import { join } from 'node:path';

/** Shape of one module's adapter as it lies on the disk. */
export interface AdapterShape {
  readonly rank: number;
  readonly in: number;
  readonly out: number;
}

const factor = /^(?:base_model\.model\.)?(.+)\.lora_(A|B)(?:\.weight)?$/;

/**
 * Ranks and sizes by module of a PEFT folder, counted from the header of its safetensors file: lora_A is [rank, in],
 * lora_B is [out, rank]. No tensor is read. Undefined where there is no such file; throws where it is damaged.
 */
export async function readAdapterShapes(folder: string): Promise<Map<string, AdapterShape> | undefined> {
  const file = await open(join(folder, 'adapter_model.safetensors')).catch(() => undefined);
  if (!file) return undefined;
  try {
    const length = Buffer.alloc(8);
    await file.read(length, 0, 8, 0);
    const bytes = Number(length.readBigUInt64LE());
    if (bytes > (await file.stat()).size) throw new Error('its header is longer than the file');
    const json = Buffer.alloc(bytes);
    await file.read(json, 0, bytes, 8);
    const header = JSON.parse(json.toString('utf8')) as Record<string, { shape?: number[] }>;
    const shapes = new Map<string, { rank: number; in: number; out: number }>();
    for (const [name, { shape }] of Object.entries(header)) {
      const match = factor.exec(name);
      if (!match || shape?.length !== 2) continue;
      const entry = shapes.get(match[1]!) ?? { rank: 0, in: 0, out: 0 };
      if (match[2] === 'A') [entry.rank, entry.in] = shape as [number, number];
      else entry.out = shape[0]!;
      shapes.set(match[1]!, entry);
    }
    return shapes;
  } finally {
    await file.close();
  }
}
