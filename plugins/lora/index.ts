import { defineStrategy, injectGatedLowRank, splitEvenly, z } from 'onnx-alora/strategy';

/**
 * LoRA (Hu et al. 2021, "LoRA: Low-Rank Adaptation of Large Language Models", section 4.1):
 *
 *     y = x W + b + s x A B        A: [in, r] kaiming-uniform, B: [r, out] zero, both trained
 *
 * Every module gets the same rank for the whole run. `budget: {rank: 8}` is exactly r = 8 everywhere; a budget
 * in parameters that whole equal ranks do not meet gives the first modules one rank more.
 */
export const lora = defineStrategy({
  name: 'lora',
  options: z.strictObject({}),
  plan(modules, budget) {
    const initial = splitEvenly(modules, budget.parameters, false);
    const cost = modules.reduce((sum, module, i) => sum + initial[i]! * (module.in + module.out), 0);
    return { initial, peak: cost, final: cost, average: cost };
  },
  inject: (graph, module) => injectGatedLowRank(graph, module),
});
