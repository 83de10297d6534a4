"""Builds the list of nouns that no cluster is called by unless a run asks for it, from the shipped WordNet tables.

    python scripts/build_withheld_nouns.py

Writes withheld_nouns.tsv into dxmc_core/vocabulary, one line `noun<TAB>synset_id` for each noun whose commonest meaning
is left out. The noun is empty where a meaning is nobody's commonest, the synset where a spelling alone is left out. Two
rules:

- People: of the synsets at or below person.n.01 only those in `SHOWN` stay. Yang et al. (2020, "Towards fairer
  datasets: filtering and balancing the distribution of the people subtree in the ImageNet hierarchy") had annotators
  rate ImageNet's people subtree: of 2,832 synsets 1,593 were offensive or sensitive, and of the rest 158 could be told
  from a picture at all. A list of what may be said errs on the right side where a list of slurs always misses some.
  `SHOWN` is ours, by their two criteria: an age, an activity, a uniform or a tool of trade that a picture shows, and no
  judgement, origin, belief, health, wealth or sexuality.
- Slurs with a harmless commonest meaning, and vulgar words: `OFFENSIVE`, by spelling.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path

import pyarrow.parquet as pq

VOCABULARY_DIR = Path(__file__).resolve().parents[1] / "dxmc_core" / "vocabulary"

ROOT = "person.n.01"

#: The synsets of people that stay, as `dancer.01` for dancer.n.01.
SHOWN = """
    accompanist.01 accordionist.01 acrobat.01 actor.01 actress.01 adolescent.01 adult.01 agriculturist.01 alumnus.01
    angler.02 archer.01 artist.01 astronaut.01 astronomer.01 athlete.01 automobile_mechanic.01 aviator.01 baby.01
    backpacker.01 baker.01 baker.02 ballerina.01 ballet_dancer.01 ballplayer.01 bandleader.01 bandsman.01 barber.01
    bartender.01 basketball_player.01 bather.02 batter.01 beekeeper.01 bellboy.01 belly_dancer.01 best_man.01
    billiard_player.01 blacksmith.01 boatman.01 bodybuilder.01 bowler.02 boxer.01 boy_scout.01 bricklayer.01 bride.01
    bride.03 bridesmaid.01 brother.01 builder.02 bullfighter.01 busker.01 butcher.01 cameraman.01 canoeist.01
    card_player.01 carpenter.01 cashier.02 catcher.01 cavalryman.01 cellist.01 cheerleader.02 chef.01 chemist.01
    chess_player.01 child.01 chimneysweeper.01 choirboy.01 clarinetist.01 cleaner.03 clerk.01 climber.04 clown.02
    coach.02 cobbler.01 commuter.02 conductor.01 cook.01 copilot.01 cowboy.01 craftsman.02 cricketer.01 cyclist.01
    dancer.01 dancer.02 dart_player.01 deliveryman.01 dentist.01 diner.01 diver.01 diver.02 doctor.01 doorkeeper.03
    dressmaker.01 driver.02 drummer.01 electrician.01 employee.01 engineer.01 entertainer.01 farmer.01 father.01
    female.02 fencer.01 fireman.04 fisherman.01 florist.01 flower_girl.01 flutist.01 football_player.01 gardener.02
    girl.01 girl_scout.01 glass_cutter.02 glassblower.01 goalkeeper.01 goldsmith.01 golfer.01 gondolier.01
    grandfather.01 grandma.01 grandparent.01 groom.01 groomsman.01 guard.01 guitarist.01 gymnast.01 hairdresser.01
    harpist.01 harvester.01 herder.02 hiker.01 hockey_player.01 hornist.01 horseman.01 hunter.01 hurdler.01
    infantryman.01 infielder.01 janitor.01 jockey.01 jogger.01 joiner.01 journalist.01 judge.01 juggler.01 jumper.01
    juvenile.01 keyboardist.01 laborer.01 lacrosse_player.01 lawyer.01 lecturer.02 librarian.01 lifeguard.01
    linebacker.01 lookout.01 lumberman.01 machinist.01 magician.01 mailman.01 male.02 male_child.01 man.01
    marathoner.01 mason.04 masseur.01 matador.01 midwife.01 mime.01 miner.01 model.03 mother.01 motorcyclist.01
    mountaineer.01 musician.01 newsreader.01 nurse.01 oarsman.01 oboist.01 onlooker.01 optician.01 organist.01
    outfielder.01 painter.01 paramedic.01 paratrooper.01 parent.01 passenger.01 patient.01 pedestrian.01
    percussionist.01 performer.01 person.01 pharmacist.01 photographer.01 physical_therapist.01 pianist.01 pilot.01
    piper.01 pitcher.01 plasterer.01 player.01 plumber.01 policeman.01 pool_player.01 porter.01 potter.01
    preschooler.01 puppeteer.01 quarterback.01 reader.01 receptionist.01 referee.01 reporter.01 rider.01 roofer.01
    runner.02 runner.03 sailor.01 salesclerk.01 salesperson.01 santa_claus.01 saxophonist.01 schoolboy.01
    schoolchild.01 schoolgirl.01 scientist.01 scout.02 scuba_diver.01 sculptor.01 secretary.02 seller.01 shepherd.01
    shopkeeper.01 shopper.01 sibling.01 singer.01 sister.01 skateboarder.01 skater.01 skier.01 skilled_worker.01
    sleeper.01 smith.10 snowboarder.01 soccer_player.01 solderer.01 soldier.01 speaker.01 spectator.01 speedskater.01
    sprinter.01 steward.03 student.01 sumo_wrestler.01 surfer.01 surgeon.01 surveyor.01 swimmer.02 tailor.01
    tap_dancer.01 teacher.01 technician.01 tennis_player.01 tiler.01 toddler.01 tourist.01 traffic_cop.01 trainer.01
    traveler.01 trombonist.01 trumpeter.01 twin.01 typist.01 umpire.01 vaulter.01 veterinarian.01 violinist.01
    violist.01 volleyball_player.01 waiter.01 waitress.01 watchman.01 weaver.01 weightlifter.01 welder.01
    window_cleaner.01 woman.01 worker.01 workman.01 wrestler.01 yachtsman.01 young_person.01
"""

#: Slurs whose commonest meaning in WordNet is another one, and vulgar words; one a line or a phrase with underscores.
OFFENSIVE = """
    arse arsehole ass asshole bastard bitch blow_job boob boobs bugger bullshit chinaman chink cocksucker coolie coon
    crap cretin cunt dago darkie darky dick dickhead dildo dyke fag faggot fart fuck fucker fucking gook greaser
    gringo gyp half-breed half-caste hand_job honkey honkie honky horseshit hymie injun jap jigaboo jungle_bunny
    kaffir kike kraut lesbo limey midget mongoloid moron motherfucker mulatto negress negro nigga nigger nigra
    octoroon paki piccaninny pickaninny pisser polack poof poontang porn pouf prick pussy quadroon queer redneck
    redskin retard sambo schlong shit shite shitter shylock slant-eye slut spastic spic spick spik squaw tit tits
    titty towelhead tranny turd twat wank whitey whore wog wop yid
"""


def withheld_rows() -> list[tuple[str, str]]:
    """Pairs of a noun and a synset, ordered; either may be empty."""
    synsets = pq.read_table(VOCABULARY_DIR / "wordnet_synsets.parquet").to_pylist()
    nouns = pq.read_table(VOCABULARY_DIR / "wordnet_nouns.parquet").to_pylist()
    shown = {f"{name}.n.{number}" for name, _, number in (word.rpartition(".") for word in SHOWN.split())}
    people = _below(ROOT, {row["synset_id"]: row["hypernyms"] for row in synsets})
    if unknown := sorted(shown - people):
        raise SystemExit(f"SHOWN has synsets that are no people in WordNet 3.0: {', '.join(unknown)}")
    withheld = people - shown
    pairs = {(row["noun"], row["synset_id"]) for row in nouns if row["synset_id"] in withheld}
    pairs |= {("", synset) for synset in withheld - {synset for _, synset in pairs}}
    pairs |= {(word.replace("_", " "), "") for word in OFFENSIVE.split()}
    return sorted(pairs, key=lambda pair: pair[::-1])


def _below(root: str, hypernyms: Mapping[str, Iterable[str]]) -> set[str]:
    """A synset and all that lie below it."""
    found, before = {root}, 0
    while len(found) > before:
        before = len(found)
        found |= {synset for synset, above in hypernyms.items() if not found.isdisjoint(above)}
    return found


def main() -> None:
    lines = [f"{noun}\t{synset}\n" for noun, synset in withheld_rows()]
    (VOCABULARY_DIR / "withheld_nouns.tsv").write_text("".join(lines))
    print(f"{len(lines)} nouns are withheld")


if __name__ == "__main__":
    main()
