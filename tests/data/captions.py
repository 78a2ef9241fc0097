"""Captions to train a tokenizer on, and difficult texts."""

ADJECTIVES = ("handwritten", "blue", "small", "don't", "naïve", "Straße", "日本", "большой", "שלום", "مرحبا")
CAPTIONS = [f"a {adjective} picture of the number {n}, isn't it?" for adjective in ADJECTIVES for n in range(12)]

ODD = {
  "plain": "a handwritten picture",
  "empty": "",
  "blank": " \t\n\u00a0 ",
  "capitals": "A Handwritten PICTURE",
  "apostrophes": "isn't, we've, I'm; they'll 'quote' don’t",
  "numbers": "12 345 ½ Ⅷ ٣ 3.14",
  "accents, composed and not": "naïve nai\u0308ve Straße STRASSE ﬁ İstanbul",
  "emoji": "😀👩‍👩‍👧‍👦🏳️‍🌈👍🏽",
  "right to left": "שלום עולם \u202eمرحبا\u202c بالعالم",
  "ideographs": "日本語のテキスト 한국어 中文",
  "combining": "Z\u0351\u036b\u0343a\u0321l\u0358go",
  "controls": "a\x00b\x07c\x1bd\x7f",
  "private and unassigned": "\ue000\U0010ffff\u0378",
  "special within": "a <|endoftext|> b <|startoftext|> c",
  "special in capitals": "<|ENDOFTEXT|> <| endoftext |>",
  "suffix within": "picture</w> of</w>the",
  "markup": "<b>bold</b> &amp; #version: 0.2",
  "width": "ｆｕｌｌ　ｗｉｄｔｈ zero\u200bwidth soft\u00adhyphen",
}
LONG = {
  "many words": "a blue picture of the number 7 " * 400,
  "one word": "picture" * 3000,
  "many emoji": "😀" * 500,
}
