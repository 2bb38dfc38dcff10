package sim

// The language of the simulated model: sentences made of five parts, each chosen from a list. A part is one phrase or
// several words, so that tokens may span words. Phrases with letters outside ASCII are cut inside their characters.

// phase is the part of a sentence that comes next.
type phase uint8

const (
	sentenceBare phase = iota // a sentence begins at the start of a line
	sentence                  // a sentence begins after another one
	verb                      // after the subject
	object                    // after the verb
	tail                      // after the object
	end                       // the full stop
	phases       = int(end) + 1
)

var subjects = []string{
	"The penstock", "A quiet turbine", "The evening water", "Every gate", "The old dam", "Our dispatcher", "A long pipe",
	"The generator", "The night shift", "One small valve", "The river", "A careful engineer", "The control room", "This queue",
	"The upper lake", "Each of the rotors", "The scheduler", "A café by the shore", "The naïve meter", "The café crew",
}

var verbs = []string{
	" holds back", " carries", " listens to", " turns with", " waits for", " remembers", " measures", " lets go of",
	" follows", " counts", " keeps the pace of", " slows down", " hands over", " balances", " opens onto", " depends on",
}

var objects = []string{
	" the falling water", " a hundred streams", " the winter load", " the last request", " every spare litre",
	" the cold pressure", " the other half of the grid", " a stubborn queue", " the city below", " the morning peak",
	" the whole valley", " two turbines at once", " the slow and heavy wheel", " what the lake gave", " the señor’s lamp",
	" the distant blue hills", " a déjà vu of last year", " the hum of the hall",
}

var tails = []string{
	" without a sound", " until the gates close", " in the early hours", " as the level rises", " because the load is steady",
	" and nobody notices", " with room to spare", " while the engineers talk", " for the rest of the night",
	", one step at a time", ", and then the next", ", which is how it should be", " 🌊 beneath the bridge", " ⚡ at full speed",
	" after the rain", " at the edge of the map", " before the tide turns", " once more",
}

var ends = []string{".", ".", ".", ".", "!", ".\n\n", " 🙂.", "…"}

// commonWords are joined to the phrases when the vocabulary is made, so that prompts in plain English take few tokens.
const commonWords = ` the of and to in a is that for it as was with be by on not he his but at are this have from or had an
 they which one you were all her she there would their we him been has when who will no more if out so up said what its
 about than into them can only other time new some could these two may first then do any like my now over such our man me
 even most made after also did many off before must well back through years where much your way down should because long
 each just state those people too mr how little good world make very year still see own work men day get here old life both
 between being under three never know same last another while us might great go come since against right came take used
 himself few house use during without again place american around however home small found thought went say part once
 general high upon school every don does got united left number course war until always away something fact water though
 less public put think almost hand enough far took head yet government system better set told nothing night end why called
 didn eyes find going look asked later knew please write explain question answer list summary code function return model
 user assistant system message text words token request server stream help can you tell me about a story of`
