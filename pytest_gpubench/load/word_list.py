"""Everyday English words, each one token in the vocabularies of today's large models: the material of synthetic prompts."""

from __future__ import annotations

_TEXT = """
able about above across act add after again age agree air all allow along also always among animal answer any appear apple area
arm army arrive art ask baby back bad ball bank base bear beat beauty bed been before began behind believe bell best better
between big bird black blood blow blue board boat body bone book born both bottom box boy branch bread break bright bring broad
brother brown build burn busy buy call came camp can capital car card care carry case cat catch cause center certain chair chance
change check chief child choose circle city claim class clean clear climb clock close cloth cloud coast cold color column come
common company consider contain control cook cool copy corn corner cost count country course cover cow create crop cross crowd cry
current cut dance danger dark day dead deal dear death decide deep degree depend desert design develop did die differ direct
discuss distance divide do doctor does dog dollar done door double down draw dream dress drink drive drop dry during each ear
early earth ease east eat edge effect egg eight either electric else empty end energy engine enough enter equal even evening event
ever every exact example except excite exercise expect experience eye face fact fair fall family famous far farm fast fat father
favor fear feed feel feet fell felt few field fight figure fill final find fine finger finish fire first fish fit five flat floor
flow flower fly follow food foot force forest form forward found four free fresh friend from front fruit full fun game garden gas
gave general gentle get girl give glad glass go gold gone good got govern grand grass gray great green grew ground group grow
guess guide gun hair half hand happen happy hard has hat have head hear heart heat heavy held help her here high hill history hit
hold hole home hope horse hot hour house how human hundred hunt hurry ice idea imagine inch industry insect iron island job join
jump just keep key kill kind king knew know lady lake land language large last late laugh law lay lead learn least leave left leg
length less let letter level lie life lift light like line list listen little live locate log lone long look lost lot loud love
low machine made main major make man many map mark market mass master match matter may mean measure meat meet melody men metal
method middle might mile milk million mind mine minute miss mix modern moment money month moon more morning most mother motion
mount mouth move much multiply music must name nation natural nature near necessary neck need never new next night nine noise noon
north nose note nothing notice now number object observe ocean off offer office often oil old once one only open operate opposite
order original other our out over own page paint pair paper parent part party pass past path pattern pay people perhaps period
person phrase pick picture piece place plain plan plane planet plant play please point poor populate port pose position possible
post pound power practice prepare present press pretty print problem process produce product proper protect prove provide pull
push put quart question quick quiet quite race radio rain raise ran range rather reach read ready real reason receive record red
region remember repeat reply represent require rest result rich ride right ring rise river road rock roll room root rope rose
round row rub rule run safe sail salt same sand save saw say scale school science score sea search season seat second section see
seed seem select self sell send sense sentence separate serve set settle seven several shape share sharp she sheet shell shine
ship shoe shop shore short should shoulder shout show side sight sign silent silver similar simple since sing single sister sit
six size skill skin sky sleep slip slow small smell smile snow so soft soil soldier solution solve some son song soon sound south
space speak special speech speed spell spend spoke spot spread spring square stand star start state station stay steam steel step
stick still stone stood stop store story straight strange stream street stretch string strong student study subject success such
sudden suffix sugar suggest suit summer sun supply support sure surface surprise swim symbol system table tail take talk tall
teach team tell ten term test than thank that their them then there these thick thin thing think third this those though thought
thousand three through throw thus tie time tiny tire together told tone too took tool top total touch toward town track trade
train travel tree triangle trip trouble truck true try tube turn twenty two type under unit until up use usual valley value vary
verb very view village visit voice vowel wait walk wall want war warm wash watch water wave way wear weather week weight well went
were west what wheel when where whether which while white who whole why wide wife wild will win wind window wing winter wire wish
with woman wonder wood word work world would write written wrong yard year yellow yes yet you young
"""
WORDS: tuple[str, ...] = tuple(_TEXT.split())
