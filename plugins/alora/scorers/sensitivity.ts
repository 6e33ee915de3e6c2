import {
  type AdapterView,
  type HostTrainer,
  type Json,
  noSensitivity,
  packFloats,
  rowSensitivity,
  type Sensitivity,
  type TargetModule,
  unpackFloats,
  updateSensitivity,
} from 'onnx-alora/strategy';
import { ends, finiteOrNull, type Scorer } from './scorer.ts';

const beta = 0.85;
const parts = ['gate', 'lora_A', 'lora_B'] as const;
type RankAverages = Readonly<Record<(typeof parts)[number], Sensitivity>>;

/**
 * ALoRA-Sensi (ALoRA appendix F): AdaLoRA's averaged sensitivity in place of ablation, from training gradients
 * and the values before each step:
 *
 *     importance = s(gate) + mean s(row of A) + mean s(row of B)
 *
 * The gate is a constant 1, and dL/dgate_i = sum over j of A[i, j] dL/dA[i, j], because the gate scales the row.
 * Averages belong to a rank for life; a grown rank starts at 0. An adapter that is not being trained has no
 * history: it is scored by |dL/dgate| on the dev batch.
 */
export function sensitivity(): Scorer {
  /** By module name and rank serial. */
  let averages = new Map<string, Map<number, RankAverages>>();

  function observe(adapters: AdapterView, module: TargetModule): void {
    const before = averages.get(module.name);
    const now = new Map<number, RankAverages>();
    adapters.serials(module).forEach((serial, i) => {
      const of = before?.get(serial) ?? {
        gate: noSensitivity(1),
        lora_A: noSensitivity(module.in),
        lora_B: noSensitivity(module.out),
      };
      const row = (role: 'lora_A' | 'lora_B', width: number) => {
        const range = [i * width, (i + 1) * width] as const;
        return [
          adapters.parameter(module, role).subarray(...range),
          adapters.gradient(module, role).subarray(...range),
        ] as const;
      };
      const a = row('lora_A', module.in);
      const ofGate = a[0].reduce((sum, value, j) => sum + value * a[1][j]!, 0);
      updateSensitivity(of.gate, [1], [ofGate], beta, beta);
      updateSensitivity(of.lora_A, ...a, beta, beta);
      updateSensitivity(of.lora_B, ...row('lora_B', module.out), beta, beta);
      now.set(serial, of);
    });
    averages.set(module.name, now);
  }

  function trained(adapters: AdapterView, module: TargetModule): number[] {
    return adapters.serials(module).map((serial) => {
      const of = averages.get(module.name)?.get(serial);
      if (!of) return 0;
      return (
        rowSensitivity(of.gate, 0, 1) +
        rowSensitivity(of.lora_A, 0, module.in) +
        rowSensitivity(of.lora_B, 0, module.out)
      );
    });
  }

  async function untrained(host: HostTrainer): Promise<number[][]> {
    const gradients = await host.gateGradients('all', 'dev');
    return gradients.map((of) => Array.from(of, Math.abs));
  }

  return {
    beforeStep({ adapters }) {
      for (const module of adapters.modules) observe(adapters, module);
    },
    async score(host) {
      const { adapters } = host;
      const importance =
        averages.size > 0
          ? adapters.modules.map((module) => trained(adapters, module))
          : await untrained(host);
      const ranks = importance.map((of) =>
        of.map((value, index) => ({
          index,
          without: null,
          only: null,
          importance: finiteOrNull(value),
          exact: false,
        })),
      );
      return { ...(await ends(host)), ranks };
    },
    save: () =>
      Object.fromEntries(
        [...averages].map(([name, ranks]) => [
          name,
          [...ranks].map(([serial, of]): Json => [serial, ...parts.flatMap((part) => pack(of[part]))]),
        ]),
      ),
    restore(state) {
      const saved = state as Readonly<Record<string, readonly (readonly [number, ...string[]])[]>>;
      averages = new Map(
        Object.entries(saved).map(([name, ranks]) => [
          name,
          new Map(ranks.map(([serial, ...packed]) => [serial, unpack(packed)])),
        ]),
      );
    },
  };
}

function pack({ mean, deviation }: Sensitivity): string[] {
  return [packFloats(mean), packFloats(deviation)];
}

function unpack(packed: readonly string[]): RankAverages {
  const [gate, a, b] = [0, 2, 4].map((i) => ({
    mean: unpackFloats(packed[i]!),
    deviation: unpackFloats(packed[i + 1]!),
  }));
  return { gate: gate!, lora_A: a!, lora_B: b! };
}
