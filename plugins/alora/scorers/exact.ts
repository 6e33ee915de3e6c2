import type { GateSetting } from 'onnx-alora/strategy';
import type { RankPosition } from '../allocator.ts';
import { rankScore, type Scorer } from './scorer.ts';

/** AB-LoRA (ALoRA section 3.3): every rank is switched off alone, and left on alone. 2 R + 2 evaluations. */
export const exact = (): Scorer => ({
  async score(host) {
    const { modules } = host.adapters;
    const positions = modules.flatMap((module, m) =>
      Array.from({ length: host.adapters.rank(module) }, (_, i): RankPosition => [m, i]),
    );
    const losses = await host.losses(settingsFor(positions));
    const [full, base] = [-losses[0]!, -losses[1]!];
    const ranks = modules.map((): ReturnType<typeof rankScore>[] => []);
    positions.forEach(([m, i], k) => {
      ranks[m]!.push(rankScore(i, full, -losses[2 + 2 * k]!, -losses[3 + 2 * k]!, true));
    });
    return { full, base, ranks };
  },
});

/** All on, all off, then for each rank: all on without it, all off but it. */
export function settingsFor(positions: readonly RankPosition[]): GateSetting[] {
  return [
    { on: 'all', except: [] },
    { on: 'none', except: [] },
    ...positions.flatMap((position): GateSetting[] => [
      { on: 'all', except: [position] },
      { on: 'none', except: [position] },
    ]),
  ];
}
