/** Where a module stands in the network, from its PEFT name. */
export interface Place {
  /** First whole-number part of the path; null where there is none. */
  readonly layer: number | null;
  /** What is left of the name: one row of a heat map. */
  readonly kind: string;
}

/** `model.layers.3.self_attn.q_proj` -> layer 3, `self_attn.q_proj`, reached through `model.layers`. */
function split(name: string): { prefix: string; layer: number | null; rest: string } {
  const parts = name.split('.');
  const at = parts.findIndex((part) => /^\d+$/.test(part));
  if (at < 0) return { prefix: '', layer: null, rest: name };
  return {
    prefix: parts.slice(0, at).join('.'),
    layer: Number(parts[at]),
    rest: parts.slice(at + 1).join('.'),
  };
}

/** Places by name. The path before the layer stays in the kind only where the network has several stacks of layers. */
export function placesOf(names: Iterable<string>): Map<string, Place> {
  const all = [...names].map((name) => ({ name, ...split(name) }));
  const stacks = new Set(all.filter((m) => m.layer !== null).map((m) => m.prefix));
  return new Map(
    all.map(({ name, prefix, layer, rest }) => {
      const kind = layer !== null && stacks.size > 1 ? `${prefix} ${rest}` : rest || name;
      return [name, { layer, kind }];
    }),
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
  /** Ranks of the best adapter on dev. */
  readonly best?: number;
}
