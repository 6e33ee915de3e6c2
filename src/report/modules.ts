import { placeOf } from '../adapters/moduleNames.ts';

/** Where a module stands in the network, from its PEFT name. */
export interface Place {
  /** Index of the block; null outside the blocks. */
  readonly layer: number | null;
  /** What is left of the name: one row of a heat map. */
  readonly kind: string;
}

/** Places by name. The path before the layer stays in the kind only where the network has several stacks of layers. */
export function placesOf(names: Iterable<string>): Map<string, Place> {
  const all = [...names].map((name) => {
    const { block, kind } = placeOf(name);
    const stack = block === null ? '' : name.slice(0, name.length - kind.length - 1).replace(/\.\d+$/, '');
    return { name, layer: block, kind, stack };
  });
  const stacks = new Set(all.filter((m) => m.layer !== null).map((m) => m.stack));
  return new Map(
    all.map(({ name, layer, kind, stack }) => [
      name,
      { layer, kind: layer !== null && stacks.size > 1 ? `${stack} ${kind}` : kind },
    ]),
  );
}

/** One adapted module over a run. */
export interface ModuleRow extends Place {
  readonly name: string;
  /** Trained scalars of one rank: in + out, and 1 where the gate trains. Undefined where no adapter file tells. */
  readonly cost?: number;
  /** Ranks at the start and at the last known step. */
  readonly before: number;
  readonly after: number;
  /** Ranks in `adapter/`, and in `best/`, the best on dev; undefined where there is no such folder. */
  readonly saved?: number;
  readonly best?: number;
}
