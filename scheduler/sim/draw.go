package sim

import "math"

// draws are random numbers that a seed decides (SplitMix64, Steele et al. 2014).
type draws uint64

func (d *draws) next() uint64 {
	*d += 0x9e3779b97f4a7c15
	z := uint64(*d)
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	return z ^ z>>31
}

// uniform is above 0 and below 1.
func (d *draws) uniform() float64 { return (float64(d.next()>>12) + 0.5) / (1 << 52) }

func (d *draws) exponential(mean float64) float64 { return -mean * math.Log(d.uniform()) }

func (d *draws) normal() float64 {
	return math.Sqrt(-2*math.Log(d.uniform())) * math.Cos(2*math.Pi*d.uniform())
}

// logNormal has that mean and the coefficient of variation 1.
func (d *draws) logNormal(mean float64) float64 {
	const sigma2 = math.Ln2
	return mean * math.Exp(d.normal()*math.Sqrt(sigma2)-sigma2/2)
}
