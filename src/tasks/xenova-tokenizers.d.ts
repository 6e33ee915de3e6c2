/**
 * The part of `@xenova/transformers/src/tokenizers.js` that `tokenizer.ts` uses. The package ships declarations for
 * its entry point only, and the entry point pulls models, image and audio code that a tokenizer does not need.
 */
declare module '@xenova/transformers/src/tokenizers.js' {
  export interface PostProcessed {
    tokens: string[];
    token_type_ids?: number[];
  }
  export class PreTrainedTokenizer {
    constructor(tokenizerJSON: object, tokenizerConfig: object);
    readonly model: {
      readonly vocab: (string | undefined)[];
      readonly tokens_to_ids: Map<string, number>;
      readonly unk_token_id: number | undefined;
    };
    readonly all_special_ids: readonly number[];
    readonly post_processor:
      | ((tokens: string[], pair: string[] | null, options: { add_special_tokens: boolean }) => PostProcessed)
      | null;
    _encode_text(text: string): string[];
    decode(
      ids: number[],
      options: { skip_special_tokens: boolean; clean_up_tokenization_spaces: boolean },
    ): string;
    apply_chat_template(
      messages: readonly { role: string; content: string }[],
      options: { chat_template: string; tokenize: false; add_generation_prompt: boolean },
    ): string;
  }
  export const AutoTokenizer: {
    readonly TOKENIZER_CLASS_MAPPING: Readonly<Record<string, typeof PreTrainedTokenizer>>;
  };
}
