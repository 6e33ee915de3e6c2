import type { AdapterView, Json } from 'onnx-alora/strategy';
import { ends, finiteOrNull, type Scorer } from './scorer.ts';

/** DARTS' settings for architecture weights (Liu et al. 2019). */
const adam = { learningRate: 3e-4, beta1: 0.5, beta2: 0.999, epsilon: 1e-8, weightDecay: 1e-3 };

/** One architecture weight: a', Adam's moments, steps made. */
interface Weight {
  value: number;
  first: number;
  second: number;
  steps: number;
}

/**
 * ALoRA-DNAS (ALoRA Eq. 4, 5 and appendix F): differentiable search in place of ablation. Each rank has a gate
 * alpha = 2 sigmoid(a), a = 0 at the start, learned by bi-level optimisation: after each step on one half of the
 * training rows, one first-order Adam step on `a` with a batch of the other half. A rank's importance is its
 * gate. After the last round the gates are folded into B, and all rows train the weights.
 */
export function dnas(): Scorer {
  /** By module name and rank serial. */
  let weights = new Map<string, Map<number, Weight>>();

  function update(adapters: AdapterView, gradients: readonly ArrayLike<number>[]): void {
    adapters.modules.forEach((module, m) => {
      const gates = adapters.parameter(module, 'gate');
      const before = weights.get(module.name);
      const now = new Map<number, Weight>();
      adapters.serials(module).forEach((serial, i) => {
        const weight = before?.get(serial) ?? { value: 0, first: 0, second: 0, steps: 0 };
        const gate = gateOf(weight);
        step(weight, gradients[m]![i]! * gate * (1 - gate / 2));
        gates[i] = gateOf(weight);
        now.set(serial, weight);
      });
      weights.set(module.name, now);
    });
  }

  return {
    heldBackShare: 0.5,
    async afterStep(host) {
      update(host.adapters, await host.gateGradients('current', 'heldBack'));
    },
    async score(host) {
      const { adapters } = host;
      const ranks = adapters.modules.map((module) =>
        Array.from(adapters.parameter(module, 'gate'), (gate, index) => ({
          index,
          without: null,
          only: null,
          importance: finiteOrNull(gate),
          exact: false,
        })),
      );
      return { ...(await ends(host)), ranks };
    },
    finish({ adapters }) {
      for (const module of adapters.modules) fold(adapters, module);
      weights = new Map();
    },
    save: () =>
      Object.fromEntries(
        [...weights].map(([name, ranks]) => [
          name,
          [...ranks].map(
            ([serial, { value, first, second, steps }]): Json => [serial, value, first, second, steps],
          ),
        ]),
      ),
    restore(state) {
      const saved = state as Readonly<
        Record<string, readonly (readonly [number, number, number, number, number])[]>
      >;
      weights = new Map(
        Object.entries(saved).map(([name, ranks]) => [
          name,
          new Map(
            ranks.map(([serial, value, first, second, steps]) => [serial, { value, first, second, steps }]),
          ),
        ]),
      );
    },
  };
}

function gateOf({ value }: Weight): number {
  return 2 / (1 + Math.exp(-value));
}

function step(weight: Weight, gradient: number): void {
  const { learningRate, beta1, beta2, epsilon, weightDecay } = adam;
  const g = gradient + weightDecay * weight.value;
  weight.steps++;
  weight.first = beta1 * weight.first + (1 - beta1) * g;
  weight.second = beta2 * weight.second + (1 - beta2) * g * g;
  const first = weight.first / (1 - beta1 ** weight.steps);
  const second = weight.second / (1 - beta2 ** weight.steps);
  weight.value -= (learningRate * first) / (Math.sqrt(second) + epsilon);
}

/** B row i times gate i, then gate 1: the function stays as it is. */
function fold(adapters: AdapterView, module: AdapterView['modules'][number]): void {
  const gates = adapters.parameter(module, 'gate');
  const b = adapters.parameter(module, 'lora_B');
  for (let i = 0; i < gates.length; i++) {
    for (let j = i * module.out; j < (i + 1) * module.out; j++) b[j]! *= gates[i]!;
    gates[i] = 1;
  }
}
