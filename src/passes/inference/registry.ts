import type { Node } from '../../onnx/graph.ts';
import { attentionRules } from './attention.ts';
import { controlRules } from './control.ts';
import { elementwiseRules } from './elementwise.ts';
import { indexingRules } from './indexing.ts';
import { linearRules } from './linear.ts';
import { normalizationRules } from './normalization.ts';
import { quantizationRules } from './quantization.ts';
import { reductionRules } from './reduction.ts';
import type { Rule } from './rule.ts';
import { shapeRules } from './shapes.ts';

const rules = new Map<string, Rule>();
for (const family of [
  attentionRules,
  controlRules,
  elementwiseRules,
  indexingRules,
  linearRules,
  normalizationRules,
  quantizationRules,
  reductionRules,
  shapeRules,
])
  for (const [operator, rule] of Object.entries(family)) {
    if (rules.has(operator)) throw new Error(`Two inference rules for ${operator}`);
    rules.set(operator, rule);
  }

/** The rule for a node's operator; undefined for operators that are not known. */
export function ruleFor(node: Node): Rule | undefined {
  return rules.get(node.domain === '' ? node.op : `${node.domain}.${node.op}`);
}
