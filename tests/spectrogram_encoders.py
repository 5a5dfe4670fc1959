"""Tiny encoders that read spectrograms: a configuration and the stock extractor of each family."""

from transformers import SeamlessM4TFeatureExtractor, Wav2Vec2BertConfig, WhisperConfig, WhisperFeatureExtractor

CONFIGS = {
    "whisper": WhisperConfig(
        d_model=96, encoder_layers=2, encoder_attention_heads=4, encoder_ffn_dim=64, decoder_layers=1,
        decoder_attention_heads=4, decoder_ffn_dim=64, num_mel_bins=20, vocab_size=64, max_target_positions=16,
        pad_token_id=0, bos_token_id=1, eos_token_id=2, decoder_start_token_id=1,
    ),
    "wav2vec2-bert": Wav2Vec2BertConfig(
        hidden_size=96, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64, conv_depthwise_kernel_size=7,
    ),
}  # fmt: skip
STOCK = {"whisper": WhisperFeatureExtractor(feature_size=20), "wav2vec2-bert": SeamlessM4TFeatureExtractor()}
