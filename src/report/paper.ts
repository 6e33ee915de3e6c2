/**
 * Numbers that Liu et al. 2024 ("ALoRA: Allocating Low-Rank Adaptation for Fine-tuning Large Language Models") print for
 * the methods that this package has. Other models, other data sizes: for orientation, never to be reproduced digit by
 * digit.
 */

export interface PaperScores {
  /** What the numbers are of. */
  readonly source: string;
  /** By name of the method; `initial` and `final` in millions of parameters where the paper prints them. */
  readonly methods: Readonly<
    Record<string, { readonly initial?: number; readonly final?: number; readonly scores: string }>
  >;
}

const table1 = 'Table 1, LLaMA-2 7B, median of 5 seeds';

/** One task of Table 1: LoRA, AdaLoRA, SoRA, ALoRA. */
function ofTable1(lora: number, adalora: number, sora: number, alora: number): PaperScores {
  const row = (initial: number, final: number, score: number) => ({
    initial,
    final,
    scores: score.toFixed(1),
  });
  return {
    source: table1,
    methods: {
      lora: row(20.0, 20.0, lora),
      adalora: row(40.0, 20.0, adalora),
      sora: row(40.0, 20.0, sora),
      alora: row(20.0, 19.6, alora),
    },
  };
}

const e2e = (bleu: number, rougeL: number, meteor: number) => ({
  scores: `BLEU ${bleu.toFixed(1)}, ROUGE-L ${rougeL.toFixed(1)}, METEOR ${meteor.toFixed(1)}`,
});

/** By the word of `data.task`. */
export const paperScores: Readonly<Record<string, PaperScores>> = {
  sst2: ofTable1(94.1, 94.1, 94.2, 95.0),
  rte: ofTable1(83.3, 83.5, 83.7, 84.6),
  qnli: ofTable1(93.1, 93.2, 93.3, 93.7),
  boolq: ofTable1(87.3, 87.1, 87.6, 88.0),
  copa: ofTable1(91.3, 91.6, 91.7, 92.1),
  record: ofTable1(90.8, 91.1, 91.0, 91.8),
  squad: ofTable1(88.4, 88.3, 88.5, 89.2),
  e2e: {
    source: 'Table 2, LLaMA-2 7B, median of 5 seeds',
    methods: {
      lora: e2e(68.9, 71.2, 46.1),
      sora: e2e(70.0, 71.1, 46.3),
      alora: e2e(70.6, 71.8, 47.1),
    },
  },
};

/** Table 4: cost on E2E, LLaMA-2 7B, one A40. What an iteration is, the paper does not say. */
export const paperCost: Readonly<Record<string, string>> = {
  lora: '17.6 GB, 5.01 it/s, 2.68 h',
  sora: '18.8 GB, 4.96 it/s, 3.63 h',
  alora: '18.1 GB, 5.01 it/s, 3.81 h',
};
