import {
  type AdapterScheduler,
  type AdapterView,
  type HostTrainer,
  type RunOutline,
  selectWithinBudget,
} from 'onnx-alora/strategy';
import { softThreshold } from './prox.ts';

/** Half of the values of N(0, 1) lie within this distance of 0. */
const median = 0.6745;

/**
 * The threshold of the target mode: half of the gates, drawn from N(0, 1), would be shrunk to zero by T/2 if no
 * gradient moved them.
 */
export function defaultThreshold(totalSteps: number): number {
  return median / (0.5 * totalSteps);
}

/** Shrinks the gates after each step; in target mode (no threshold given) until the budget is met. */
export function gateThreshold(run: RunOutline, given: number | undefined): AdapterScheduler {
  const { modules, totalSteps, budget } = run;
  // As float32, like the gates: a gate that equals the threshold becomes exactly zero.
  const threshold = Math.fround(given ?? defaultThreshold(totalSteps));
  /** Target mode only: the zero set is final. */
  let frozen = false;
  let rounds = 0;
  /** Live scalars during each step, summed over the steps made: what an average budget has spent. */
  let spent = 0;

  /** Scalars that the rest of the run may hold. */
  function target(step: number): number {
    switch (budget.at) {
      case 'final':
        return budget.parameters;
      case 'peak':
        return budget.parameters / 2;
      case 'average':
        return (budget.parameters * totalSteps - spent) / Math.max(1, totalSteps - step);
    }
  }

  /** Ends the search: the largest |g| within the target stay, and what was dropped is zero from here on. */
  function freeze(host: HostTrainer, shrunk: readonly Float32Array[]): void {
    const { adapters } = host;
    const ranks = modules.flatMap((module, m) =>
      [...adapters.parameter(module, 'gate')].map((g, index) => ({
        m,
        index,
        score: Math.abs(g),
        cost: adapters.costOfRank(module),
      })),
    );
    const keep = selectWithinBudget(ranks, target(host.step));
    const patterns = modules.map((module) => new Array<boolean>(adapters.rank(module)).fill(false));
    ranks.forEach(({ m, index }, i) => {
      const gate = adapters.parameter(modules[m]!, 'gate');
      patterns[m]![index] = keep[i]!;
      // A gate that has to stay although it would be shrunk to zero keeps its value.
      gate[index] = keep[i] ? shrunk[m]![index]! || gate[index]! : 0;
    });
    setPatterns(host, patterns);
    frozen = true;
  }

  function setPatterns(host: HostTrainer, patterns: readonly boolean[][]): void {
    const { adapters } = host;
    const pruned: { module: string; index: number; score: number }[] = [];
    const grown: Record<string, number> = {};
    modules.forEach((module, m) => {
      const before = adapters.live(module);
      patterns[m]!.forEach((live, index) => {
        if (before[index] && !live) pruned.push({ module: module.name, index, score: 0 });
        if (!before[index] && live) grown[module.name] = (grown[module.name] ?? 0) + 1;
      });
      adapters.setLive(module, patterns[m]!);
    });
    if (pruned.length > 0 || Object.keys(grown).length > 0) host.log({ round: ++rounds, pruned, grown });
  }

  function shrink(host: HostTrainer): void {
    const { adapters } = host;
    const shrunk = modules.map((module) =>
      adapters.parameter(module, 'gate').map((g) => softThreshold(g, threshold)),
    );
    if (given === undefined) {
      const live = modules.reduce(
        (sum, module, m) => sum + nonZero(shrunk[m]!) * adapters.costOfRank(module),
        0,
      );
      if (live <= target(host.step) || host.step >= totalSteps / 2) {
        freeze(host, shrunk);
        return;
      }
    }
    modules.forEach((module, m) => {
      adapters.parameter(module, 'gate').set(shrunk[m]!);
    });
    setPatterns(
      host,
      shrunk.map((gate) => Array.from(gate, (g) => g !== 0)),
    );
  }

  return {
    afterStep(host) {
      spent += host.adapters.liveParameters();
      if (frozen) zeroDropped(host.adapters, run);
      else shrink(host);
    },
    finish(host) {
      if (given !== undefined || frozen) return;
      freeze(
        host,
        modules.map((module) => host.adapters.parameter(module, 'gate').slice()),
      );
    },
    settled: () => given !== undefined || frozen,
    save: () => ({ frozen, rounds, spent }),
    restore(state) {
      ({ frozen, rounds, spent } = state as { frozen: boolean; rounds: number; spent: number });
    },
  };
}

function nonZero(gate: Float32Array): number {
  return gate.reduce((count, g) => count + (g === 0 ? 0 : 1), 0);
}

/** Gradients reach a zero gate, so the optimizer would revive it. */
function zeroDropped(adapters: AdapterView, { modules }: RunOutline): void {
  for (const module of modules) {
    const gate = adapters.parameter(module, 'gate');
    adapters.live(module).forEach((live, i) => {
      if (!live) gate[i] = 0;
    });
  }
}
