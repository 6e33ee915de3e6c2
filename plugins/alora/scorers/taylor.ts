import type { HostTrainer } from 'onnx-alora/strategy';
import { ends, rankScore, type Scorer, type Scores } from './scorer.ts';

/**
 * An estimate from two backward passes over the gates: S(M without r) = S(M) - dS/dg_r with all gates on, and
 * S(M with only r) = S(none) + dS/dg_r with all gates off.
 */
export const taylor = (): Scorer => ({ score: taylorScores });

export async function taylorScores(host: HostTrainer): Promise<Scores> {
  const { full, base } = await ends(host);
  const on = await host.gateGradients('all', 'dev');
  const off = await host.gateGradients('none', 'dev');
  // Gradients are of the loss, S is minus the loss.
  const ranks = host.adapters.modules.map((_, m) =>
    Array.from(on[m]!, (slope, i) => rankScore(i, full, full + slope, base - off[m]![i]!, false)),
  );
  return { full, base, ranks };
}
