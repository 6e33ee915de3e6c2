import { AloraError } from '../errors.ts';
import { readAdapterJson } from './jsonFile.ts';
import type { LinearModule, ModelConfig } from './module.ts';
import { fusedNames, outputsOf, type Packing, packingOf } from './packing.ts';
import type { LowRankWeights, PeftAdapter } from './peft.ts';

/** File beside a saved adapter: how many ranks of a fused layer belong to each of its parts, in the order of the rows. */
export const splitFile = 'split_fused.json';

export type RankCounts = Readonly<Record<string, Readonly<Record<string, number>>>>;

/**
 * An adapter as the fused layers among `modules` take it: the factors of a layer's parts become one pair, A one below
 * the other and B block by block, each block in the outputs of its part: the same function, its rank the sum of
 * theirs, or theirs where they share one A (`separateAdapter`). Layers that the adapter names themselves, and parts
 * that are layers of the file, stay.
 */
export function packAdapter<Adapter extends PeftAdapter>(
  adapter: Adapter,
  modules: readonly Pick<LinearModule, 'name' | 'in' | 'out'>[],
  config: ModelConfig,
): Adapter {
  const own = new Set(modules.map(({ name }) => name));
  const packed = new Map(adapter.modules);
  for (const fused of modules) {
    const packing = adapter.modules.has(fused.name) ? undefined : packingOf(fused, config);
    const parts = packing?.parts.map(({ name }) => (own.has(name) ? undefined : adapter.modules.get(name)));
    if (!packing || !parts || !fits(fused, packing, parts)) continue;
    for (const { name } of packing.parts) packed.delete(name);
    packed.set(fused.name, pack(fused, packing, parts));
  }
  return packed.size === adapter.modules.size && [...packed.keys()].every((name) => adapter.modules.has(name))
    ? adapter
    : { ...adapter, modules: packed };
}

function fits(
  fused: Pick<LinearModule, 'in'>,
  { groups, parts }: Packing,
  factors: readonly (LowRankWeights | undefined)[],
): boolean {
  const given = factors.flatMap((weights, i) => (weights ? [{ weights, out: groups * parts[i]!.rows }] : []));
  return (
    given.length > 0 && given.every(({ weights, out }) => weights.in === fused.in && weights.out === out)
  );
}

function pack(
  { in: width, out }: Pick<LinearModule, 'in' | 'out'>,
  packing: Packing,
  parts: readonly (LowRankWeights | undefined)[],
): LowRankWeights {
  const present = parts.flatMap((weights, position) => (weights ? [{ weights, position }] : []));
  const shared = shareA(present.map(({ weights }) => weights));
  const first = present[0]!.weights;
  const rank = shared ? first.rank : present.reduce((sum, { weights }) => sum + weights.rank, 0);
  const scales = new Set(present.map(({ weights }) => weights.scale));
  // One alpha for the layer; scales that differ go into the gates.
  const scale = scales.size === 1 ? first.scale : 1;
  const A = new Float32Array(rank * width);
  const B = new Float32Array(rank * out);
  const gate = new Float32Array(rank);
  let row = 0;
  for (const { weights, position } of present) {
    const places = outputsOf(packing, position);
    A.set(weights.A, row * width);
    gate.set(
      weights.gate.map((value) => value * (weights.scale / scale)),
      row,
    );
    for (let i = 0; i < weights.rank; i++)
      places.forEach((place, j) => {
        B[(row + i) * out + place] = weights.B[i * weights.out + j]!;
      });
    if (!shared) row += weights.rank;
  }
  return { rank, in: width, out, scale, A, B, gate };
}

function shareA([first, ...others]: readonly LowRankWeights[]): boolean {
  const same = (a: Float32Array, b: Float32Array) =>
    a.length === b.length && a.every((value, i) => value === b[i]);
  return others.every(
    ({ A, gate, scale }) => scale === first!.scale && same(gate, first!.gate) && same(A, first!.A),
  );
}

/**
 * An adapter as the original model takes it where an exporter packed separate layers into one of `modules`: each of
 * them gets the packed layer's A and its own outputs' columns of B. The same function, with A once for each.
 */
export function separateAdapter(
  adapter: PeftAdapter,
  modules: readonly Pick<LinearModule, 'name' | 'out'>[],
  config: ModelConfig,
): PeftAdapter {
  const separated = new Map<string, LowRankWeights>();
  const byName = new Map(modules.map((module) => [module.name, module]));
  for (const [name, weights] of adapter.modules) {
    const module = byName.get(name);
    const packing = module && packingOf(module, config);
    if (!packing || packing.fusedInOriginal) separated.set(name, weights);
    else
      packing.parts.forEach((part, position) => {
        const columns = outputsOf(packing, position);
        const B = new Float32Array(weights.rank * columns.length);
        for (let i = 0; i < weights.rank; i++)
          columns.forEach((column, j) => {
            B[i * columns.length + j] = weights.B[i * weights.out + column]!;
          });
        separated.set(part.name, { ...weights, out: columns.length, B });
      });
  }
  return { ...adapter, modules: separated };
}

/**
 * The layer or layers of a run, among `known`, that a saved layer holds the ranks of: itself, the parts that it was
 * fused of (`counts`), or the one that an exporter packed it into.
 */
export function layersOfSaved(
  name: string,
  rank: number,
  known: { has(name: string): boolean },
  counts: RankCounts = {},
): (readonly [name: string, rank: number])[] {
  const parts = counts[name];
  if (known.has(name)) return [[name, rank]];
  if (parts) return Object.entries(parts);
  return [[fusedNames(name).find((fused) => known.has(fused)) ?? name, rank]];
}

/** Ranks of the parts in the fused layers that `packAdapter` would make of them; undefined where it makes none. */
export function rankCounts(
  adapter: PeftAdapter,
  modules: readonly LinearModule[],
  config: ModelConfig,
): RankCounts | undefined {
  const counts = modules.flatMap((fused) => {
    const parts = (packingOf(fused, config)?.parts ?? []).flatMap(({ name }) => {
      const weights = adapter.modules.get(name);
      return weights ? [[name, weights.rank] as const] : [];
    });
    return parts.length > 0 ? [[fused.name, Object.fromEntries(parts)] as const] : [];
  });
  return counts.length > 0 ? Object.fromEntries(counts) : undefined;
}

/** What was written beside an adapter; undefined where nothing was. */
export function readRankCounts(folder: string): RankCounts | undefined {
  return readAdapterJson(folder, splitFile) as RankCounts | undefined;
}

/**
 * The reverse of `packAdapter`: factors of the fused layers that `modules` have as parts are dealt to these. A rank
 * belongs to the part in whose outputs its row of B lies; where that row is zero, `counts` tells, else the part of the
 * rank before it. Errors: ADAPTER_NOT_SPLIT for a rank that acts on several parts.
 */
export function unpackAdapter<Adapter extends PeftAdapter>(
  adapter: Adapter,
  modules: readonly LinearModule[],
  counts: RankCounts = {},
): Adapter {
  const fused = new Map(modules.flatMap(({ part }) => (part ? [[part.of.name, part] as const] : [])));
  const unpacked = new Map<string, LowRankWeights>();
  for (const [name, weights] of adapter.modules) {
    const part = fused.get(name);
    if (part) for (const entry of unpack(name, weights, part.packing, counts[name])) unpacked.set(...entry);
    else unpacked.set(name, weights);
  }
  return { ...adapter, modules: unpacked };
}

function unpack(
  name: string,
  weights: LowRankWeights,
  packing: Packing,
  counts: RankCounts[string] | undefined,
): (readonly [string, LowRankWeights])[] {
  const places = packing.parts.map((_, position) => outputsOf(packing, position));
  const recorded = packing.parts.flatMap((part, position) =>
    new Array<number>(counts?.[part.name] ?? 0).fill(position),
  );
  const owners: number[] = [];
  for (let row = 0; row < weights.rank; row++) {
    const touched = places.flatMap((columns, position) =>
      columns.some((column) => weights.B[row * weights.out + column] !== 0) ? [position] : [],
    );
    if (touched.length > 1) throw notSplit(name, packing, row);
    const told = recorded.length === weights.rank ? recorded[row] : owners[row - 1];
    owners.push(touched[0] ?? told ?? 0);
  }
  return packing.parts.map((part, position) => {
    const rows = owners.flatMap((owner, row) => (owner === position ? [row] : []));
    const columns = places[position]!;
    const B = new Float32Array(rows.length * columns.length);
    const A = new Float32Array(rows.length * weights.in);
    rows.forEach((row, i) => {
      A.set(weights.A.subarray(row * weights.in, (row + 1) * weights.in), i * weights.in);
      columns.forEach((column, j) => {
        B[i * columns.length + j] = weights.B[row * weights.out + column]!;
      });
    });
    const gate = Float32Array.from(rows, (row) => weights.gate[row]!);
    const { in: width, scale } = weights;
    return [part.name, { rank: rows.length, in: width, out: columns.length, scale, A, B, gate }] as const;
  });
}

function notSplit(name: string, { parts }: Packing, row: number): AloraError {
  return new AloraError('config', 'ADAPTER_NOT_SPLIT', 'The adapter treats a fused projection as one', {
    where: name,
    got: `rank ${row} acts on more than one of ${parts.map((part) => part.name.split('.').at(-1)).join(', ')}`,
    allowed: 'with model.splitFused: an adapter that was trained with it, or of the separate layers',
    fix: 'Set model.splitFused to false to go on with this adapter.',
  });
}
