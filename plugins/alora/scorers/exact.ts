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
    const [all, none, ...losses] = await host.losses([
      { on: 'all', except: [] },
      { on: 'none', except: [] },
      ...settingsFor(positions),
    ]);
    const [full, base] = [-all!, -none!];
    const ranks = modules.map((): ReturnType<typeof rankScore>[] => []);
    positions.forEach(([m, i], k) => {
      ranks[m]!.push(rankScore(i, full, -losses[2 * k]!, -losses[2 * k + 1]!, true));
    });
    return { full, base, ranks };
  },
});

/** For each rank: all on without it, all off but it. */
export function settingsFor(positions: readonly RankPosition[]): GateSetting[] {
  return positions.flatMap((position): GateSetting[] => [
    { on: 'all', except: [position] },
    { on: 'none', except: [position] },
  ]);
}
