"""Words that needles' keys are made of: no adjective ends with another, no noun begins with another."""

_ADJECTIVES = """
able ancient bitter brave calm clever dark dusty eager empty faint fierce gentle giant happy hollow icy jolly kind loud
merry narrow noble numerous odd proud quick rapid shy silent spare tall tender uneven vast wandering warm yellow young
zany
"""
_NOUNS = """
age anchor apple basket bridge candle copper desert dragon engine falcon forest garden hammer harbor island jacket
kettle kite ladder lantern marble meadow needle notebook orange pillow planet quartz ribbon river saddle silver thimble
tunnel umbrella valley violin whistle window yard
"""
ADJECTIVES = tuple(_ADJECTIVES.split())
NOUNS = tuple(_NOUNS.split())
