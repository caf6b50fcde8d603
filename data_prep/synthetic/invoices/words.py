"""Invoice vocabulary in seven languages: labels, goods, and invented names and places."""
# ruff: noqa: E501 - all translations of a word are easier to check on one line

import unicodedata

LANGUAGES = ("en", "de", "fr", "es", "ko", "zh", "bn")

_LABELS = """
invoice | Invoice | Rechnung | Facture | Factura | 청구서 | 发票 | চালান
receipt | Receipt | Kassenbon | Ticket de caisse | Recibo | 영수증 | 收据 | রসিদ
bank_statement | Account statement | Kontoauszug | Relevé de compte | Extracto de cuenta | 계좌 거래 내역서 | 账户对账单 | ব্যাংক বিবরণী
purchase_order | Purchase order | Bestellung | Bon de commande | Orden de compra | 발주서 | 采购订单 | ক্রয় আদেশ
credit_note | Credit note | Gutschrift | Avoir | Nota de crédito | 대변 전표 | 贷项通知单 | ক্রেডিট নোট
delivery_note | Delivery note | Lieferschein | Bon de livraison | Albarán de entrega | 납품서 | 送货单 | সরবরাহ চালান
utility_bill | Electricity bill | Stromrechnung | Facture d’électricité | Factura de electricidad | 전기요금 고지서 | 电费账单 | বিদ্যুৎ বিল
quotation | Quotation | Angebot | Devis | Presupuesto | 견적서 | 报价单 | দরপত্র
number | Number | Nummer | Numéro | Número | 번호 | 编号 | নম্বর
date | Date | Datum | Date | Fecha | 일자 | 日期 | তারিখ
time | Time | Uhrzeit | Heure | Hora | 시각 | 时间 | সময়
due_date | Due date | Fällig am | Échéance | Vencimiento | 납부 기한 | 到期日 | পরিশোধের শেষ তারিখ
valid_until | Valid until | Gültig bis | Valable jusqu’au | Válido hasta | 유효 기한 | 有效期至 | মেয়াদ
delivery_date | Delivery date | Liefertermin | Date de livraison | Fecha de entrega | 납기일 | 交货日期 | সরবরাহের তারিখ
reference | Reference | Bezug | Référence | Referencia | 참조 번호 | 参考编号 | সূত্র নম্বর
period_start | From | Von | Du | Desde | 시작일 | 起始日期 | শুরু
period_end | To | Bis | Au | Hasta | 종료일 | 截止日期 | শেষ
vendor | From | Von | De | De | 공급자 | 卖方 | বিক্রেতা
client | Bill to | An | Client | Cliente | 공급받는 자 | 买方 | ক্রেতা
ship_to | Ship to | Lieferadresse | Livrer à | Enviar a | 배송지 | 收货方 | প্রাপক
supplier | Supplier | Lieferant | Fournisseur | Proveedor | 공급업체 | 供应商 | সরবরাহকারী
tax_id | Tax ID | USt-IdNr. | N° TVA | NIF | 사업자등록번호 | 税号 | কর নম্বর
phone | Phone | Telefon | Tél. | Tel. | 전화 | 电话 | ফোন
pos | No. | Pos. | N° | N.º | 순번 | 序号 | ক্রম
code | Code | Art.-Nr. | Réf. | Código | 품번 | 货号 | কোড
desc | Description | Bezeichnung | Désignation | Descripción | 품목 | 名称 | বিবরণ
qty | Qty | Menge | Qté | Cant. | 수량 | 数量 | পরিমাণ
unit | Unit | Einh. | Unité | Unidad | 단위 | 单位 | একক
unit_price | Unit price | Einzelpreis | Prix unitaire | Precio | 단가 | 单价 | একক মূল্য
discount_rate | Disc. % | Rabatt % | Remise % | Dto. % | 할인 % | 折扣 % | ছাড় %
tax_rate | Tax % | MwSt. % | TVA % | IVA % | 세율 % | 税率 % | ভ্যাট %
line_total | Amount | Betrag | Montant | Importe | 금액 | 金额 | মূল্য
subtotal | Subtotal | Zwischensumme | Sous-total | Subtotal | 소계 | 小计 | উপমোট
discount | Discount | Rabatt | Remise | Descuento | 할인 | 折扣 | ছাড়
shipping | Shipping | Versand | Frais de port | Gastos de envío | 배송비 | 运费 | পরিবহন খরচ
tax | VAT | MwSt. | TVA | IVA | 부가세 | 增值税 | ভ্যাট
base | Net | Netto | Base HT | Base | 공급가액 | 税前金额 | করযোগ্য মূল্য
tax_amount | Tax | Steuer | Taxe | Impuesto | 세액 | 税额 | কর
rate | Rate | Satz | Taux | Tipo | 세율 | 税率 | হার
included | incl. | inkl. | incl. | incl. | 포함 | 含 | সহ
grand_total | Total | Gesamtbetrag | Total TTC | Total | 합계 | 合计 | সর্বমোট
total_due | Amount due | Zu zahlen | Net à payer | Total a pagar | 납부하실 금액 | 应付金额 | মোট প্রদেয়
tendered | Cash | Bar | Espèces | Efectivo | 받은 금액 | 现金 | নগদ
change | Change | Rückgeld | Rendu | Cambio | 거스름돈 | 找零 | ফেরত
total_qty | Total quantity | Gesamtmenge | Quantité totale | Cantidad total | 총 수량 | 总数量 | মোট পরিমাণ
received | Received in good order | Ware ordnungsgemäß erhalten | Reçu en bon état | Recibido conforme | 위 물품을 정히 인수함 | 货物已验收 | মালামাল বুঝে পেলাম
signature | Signature | Unterschrift | Signature | Firma | 서명 | 签名 | স্বাক্ষর
account_number | Account number | Kontonummer | N° de compte | N.º de cuenta | 계좌번호 | 账号 | হিসাব নম্বর
account_holder | Account holder | Kontoinhaber | Titulaire | Titular | 예금주 | 户名 | হিসাবধারী
details | Details | Buchungstext | Libellé | Concepto | 적요 | 摘要 | বিবরণ
debit | Debit | Soll | Débit | Cargo | 출금 | 支出 | খরচ
credit | Credit | Haben | Crédit | Abono | 입금 | 收入 | জমা
balance | Balance | Saldo | Solde | Saldo | 잔액 | 余额 | স্থিতি
opening_balance | Opening balance | Anfangssaldo | Solde initial | Saldo inicial | 이월 잔액 | 期初余额 | প্রারম্ভিক স্থিতি
closing_balance | Closing balance | Endsaldo | Solde final | Saldo final | 최종 잔액 | 期末余额 | সমাপনী স্থিতি
total_debit | Total debits | Summe Soll | Total débits | Total cargos | 출금 합계 | 支出合计 | মোট খরচ
total_credit | Total credits | Summe Haben | Total crédits | Total abonos | 입금 합계 | 收入合计 | মোট জমা
totals | Totals | Summen | Totaux | Totales | 합계 | 合计 | মোট
customer_number | Customer no. | Kundennr. | N° client | N.º de cliente | 고객 번호 | 客户编号 | গ্রাহক নম্বর
meter_number | Meter no. | Zählernr. | N° compteur | N.º de contador | 계량기 번호 | 表号 | মিটার নম্বর
previous | Previous reading | Alter Stand | Ancien index | Lectura anterior | 전월 지침 | 上期读数 | পূর্বের রিডিং
current | Current reading | Neuer Stand | Nouvel index | Lectura actual | 당월 지침 | 本期读数 | বর্তমান রিডিং
consumption | Consumption | Verbrauch | Consommation | Consumo | 사용량 | 用电量 | ব্যবহার
terms | Payment within 30 days without deduction | Zahlbar innerhalb von 30 Tagen ohne Abzug | Paiement à 30 jours, sans escompte | Pago a 30 días sin descuento | 발행일로부터 30일 이내에 납부해 주십시오 | 请于三十日内付款 | ত্রিশ দিনের মধ্যে পরিশোধ করুন
thanks | Thank you for your purchase! | Vielen Dank für Ihren Einkauf! | Merci de votre visite ! | ¡Gracias por su compra! | 이용해 주셔서 감사합니다 | 谢谢惠顾 | আবার আসবেন, ধন্যবাদ
page | Page 1 of 1 | Seite 1 von 1 | Page 1 sur 1 | Página 1 de 1 | 1쪽 중 1쪽 | 第一页，共一页 | একটি পৃষ্ঠা
"""
LABELS: dict[str, dict[str, str]] = {language: {} for language in LANGUAGES}
for _line in unicodedata.normalize("NFC", _LABELS).strip().splitlines():
    _key, *_texts = (text.strip() for text in _line.split(" | "))
    for _language, _text in zip(LANGUAGES, _texts, strict=True):
        LABELS[_language][_key] = _text


def _lists(text: str) -> dict[str, list[str]]:
    """Parse lines of `name: text; text; text` into {name: texts}."""
    pairs = (
        line.split(": ", 1) for line in unicodedata.normalize("NFC", text).strip().splitlines()
    )
    return {name: [word.strip() for word in words.split(";")] for name, words in pairs}


# goods: what a shop sells; articles and services: what firms sell to each other; details: what a
# longer description adds; tariff: energy and the standing charge; incomes and bookings: what a bank writes.
WORDS = {
    "en": _lists("""
goods: Whole milk 1 l; Sourdough bread; Free-range eggs x6; Cheddar 200 g; Bananas; Ground coffee; Orange juice; Tomatoes; Dish soap; Olive oil 0.5 l; Salted butter; Green tea; Basmati rice; Dark chocolate; Paper towels; Sparkling water; Pasta 500 g; Strawberry jam
articles: Office chair; Laser printer toner; LED desk lamp; Network switch, 24 ports; Copier paper A4; Steel shelf; Safety gloves; Wall clock; Label printer; USB-C docking station; Whiteboard; Filing cabinet; Hex bolts M8; Packing tape; Water filter cartridge; Hand pump
services: Consulting; On-site installation; Software maintenance; Translation; Graphic design; Staff training; Data migration; Equipment rental
details: replacement part, fits models from 2015 onwards; heavy-duty version; including delivery and assembly at the place of use; black, 2-year warranty; set of 4; according to our offer of last month; extended temperature range, IP65; recycled material
tariff: Energy, day rate; Energy, night rate; Network charge; Standing charge
incomes: Salary; Transfer from savings; Refund online order; Interest
bookings: Rent; Card payment supermarket; Insurance premium; Cash withdrawal; Direct debit telephone; Standing order gym; Fuel station; Pharmacy
names: Anna Whitfield; Marcus Bell; Olivia Grant; Thomas Reyes; Sarah Lindqvist; Daniel Okafor; Emily Hart; Peter Novak
firms: Northgate Supplies; Bluefield Trading; Harbour & Sons; Silverline Systems; Oakridge Tools; Meridian Office; Redstone Logistics; Willow Kitchen; Crestview Labs
forms: Ltd; Inc.; LLC; & Co.; Group
utilities: Lakeside Power; Union Electric; Greenhill Energy
banks: Northern Union Bank; Harbour Savings Bank
streets: Mill Lane; Station Road; Park Avenue; Kings Street; Harbour View; Maple Drive; Church Road
cities: Ashford; Brighton; Salem; Newport; Georgetown; Kingston; Riverside
units: pcs; box; set; kg; m
hour: h
"""),
    "de": _lists("""
goods: Vollmilch 1 l; Bauernbrot; Eier Freiland 10 St.; Gouda 200 g; Bananen; Röstkaffee; Orangensaft; Rispentomaten; Spülmittel; Olivenöl 0,5 l; Süßrahmbutter; Grüner Tee; Basmatireis; Zartbitterschokolade; Küchenrolle; Mineralwasser; Spaghetti 500 g; Erdbeerkonfitüre
articles: Bürostuhl; Toner für Laserdrucker; Schreibtischleuchte LED; Netzwerk-Switch, 24 Ports; Kopierpapier A4; Stahlregal; Schutzhandschuhe; Wanduhr; Etikettendrucker; Dockingstation USB-C; Weißwandtafel; Aktenschrank; Sechskantschrauben M8; Packband; Wasserfilterkartusche; Handpumpe
services: Beratung; Montage vor Ort; Softwarepflege; Übersetzung; Grafikdesign; Schulung; Datenübernahme; Gerätemiete
details: Ersatzteil, passend für Baureihen ab 2015; verstärkte Ausführung; einschließlich Lieferung und Aufbau am Verwendungsort; schwarz, 2 Jahre Garantie; 4er-Set; gemäß unserem Angebot vom Vormonat; erweiterter Temperaturbereich, IP65; aus Recyclingmaterial
tariff: Arbeitspreis Tag; Arbeitspreis Nacht; Netzentgelt; Grundpreis
incomes: Gehalt; Umbuchung Sparkonto; Erstattung Bestellung; Zinsen
bookings: Miete; Kartenzahlung Supermarkt; Versicherungsbeitrag; Bargeldauszahlung; Lastschrift Telefon; Dauerauftrag Verein; Tankstelle; Apotheke
names: Jürgen Köhler; Sabine Weiß; Lukas Brandt; Katharina Groß; Stefan Müller; Heike Schäfer; Jonas Böhm; Petra Vogel
firms: Nordlicht Handels; Bergmann Technik; Schröder & Söhne; Südwest Bürobedarf; Eichenhof Werkzeuge; Rheintal Logistik; Blaustein Systeme; Lindenhof Küchen; Möwe Verlag
forms: GmbH; AG; KG; e. K.; GmbH & Co. KG
utilities: Stadtwerke Neustadt; Moselstrom; Grünland Energie
banks: Nordbank; Sparverein Süd
streets: Mühlenweg; Bahnhofstraße; Lindenallee; Königstraße; Hafenweg; Ahornstraße; Kirchgasse
cities: Neustadt; Lüneburg; Grünberg; Altdorf; Görlitz; Friedberg; Weißenfels
units: Stk.; Karton; Satz; kg; m
hour: Std.
"""),
    "fr": _lists("""
goods: Lait entier 1 l; Pain de campagne; Œufs plein air x6; Comté 200 g; Bananes; Café moulu; Jus d’orange; Tomates grappe; Liquide vaisselle; Huile d’olive 0,5 l; Beurre demi-sel; Thé vert; Riz basmati; Chocolat noir; Essuie-tout; Eau gazeuse; Pâtes 500 g; Confiture de fraises
articles: Fauteuil de bureau; Toner pour imprimante laser; Lampe de bureau LED; Commutateur réseau, 24 ports; Papier A4; Étagère en acier; Gants de protection; Horloge murale; Imprimante d’étiquettes; Station d’accueil USB-C; Tableau blanc; Armoire de classement; Boulons M8; Ruban d’emballage; Cartouche de filtre à eau; Pompe manuelle
services: Conseil; Installation sur site; Maintenance logicielle; Traduction; Création graphique; Formation; Reprise de données; Location de matériel
details: pièce de rechange pour les modèles à partir de 2015; version renforcée; livraison et montage sur le lieu d’utilisation compris; noir, garantie 2 ans; lot de 4; selon notre offre du mois dernier; plage de température étendue, IP65; matière recyclée
tariff: Énergie, heures pleines; Énergie, heures creuses; Acheminement; Abonnement
incomes: Salaire; Virement livret; Remboursement commande; Intérêts
bookings: Loyer; Paiement carte supermarché; Prime d’assurance; Retrait d’espèces; Prélèvement téléphone; Cotisation club; Station-service; Pharmacie
names: Hélène Dubois; François Lefèvre; Amélie Roux; Benoît Garnier; Chloé Marchand; Gérard Petit; Zoé Fontaine; Julien Mercier
firms: Atelier du Nord; Maison Lemaître; Bellevue Négoce; Côte Bleue; Outillage Chêne; Rhône Logistique; Systèmes Azur; Cuisine du Parc; Éditions Forêt
forms: SARL; SA; SAS; et Fils; EURL
utilities: Énergie du Lac; Électricité des Vallées; Lumière Verte
banks: Banque du Littoral; Crédit des Vallées
streets: rue du Moulin; avenue de la Gare; allée des Tilleuls; rue Royale; quai du Port; rue des Érables; place de l’Église
cities: Beauvoir; Villeneuve; Châteaudun; Saint-Émile; Besançon; Évreux; Montélimar
units: pce; carton; lot; kg; m
hour: h
"""),
    "es": _lists("""
goods: Leche entera 1 l; Pan de pueblo; Huevos camperos x6; Queso curado 200 g; Plátanos; Café molido; Zumo de naranja; Tomates en rama; Lavavajillas; Aceite de oliva 0,5 l; Mantequilla; Té verde; Arroz basmati; Chocolate negro; Papel de cocina; Agua con gas; Pasta 500 g; Mermelada de fresa
articles: Silla de oficina; Tóner para impresora láser; Lámpara de mesa LED; Conmutador de red, 24 puertos; Papel A4; Estantería de acero; Guantes de seguridad; Reloj de pared; Impresora de etiquetas; Base USB-C; Pizarra blanca; Archivador; Tornillos M8; Cinta de embalar; Cartucho de filtro de agua; Bomba manual
services: Asesoría; Instalación in situ; Mantenimiento de software; Traducción; Diseño gráfico; Formación; Migración de datos; Alquiler de equipos
details: repuesto para modelos a partir de 2015; versión reforzada; entrega y montaje en el lugar de uso incluidos; negro, 2 años de garantía; juego de 4; según nuestra oferta del mes pasado; rango de temperatura ampliado, IP65; material reciclado
tariff: Energía, hora punta; Energía, hora valle; Peaje de acceso; Término fijo
incomes: Nómina; Traspaso ahorro; Devolución pedido; Intereses
bookings: Alquiler; Pago tarjeta supermercado; Prima de seguro; Retirada de efectivo; Recibo teléfono; Cuota gimnasio; Gasolinera; Farmacia
names: Lucía Fernández; Javier Muñoz; Inés Ibáñez; Andrés Peña; María Gutiérrez; Óscar Núñez; Sofía León; Raúl Domínguez
firms: Suministros Norte; Comercial Bahía; Hermanos Ordóñez; Sistemas Lince; Herramientas Roble; Oficina Meridiano; Logística Duero; Cocinas Olmo; Editorial Peñón
forms: S.L.; S.A.; S.L.U.; e Hijos; S. Coop.
utilities: Luz del Valle; Eléctrica Sierra; Energía Clara
banks: Banco del Cantábrico; Caja Sierra
streets: calle del Molino; avenida de la Estación; paseo de los Tilos; calle Real; muelle del Puerto; calle Arce; plaza de la Iglesia
cities: Villanueva; Logroño; Cádiz; Ávila; Santa María; Torrejón; León
units: ud.; caja; juego; kg; m
hour: h
"""),
    "ko": _lists("""
goods: 우유 1L; 통밀 식빵; 유정란 10구; 체다 치즈; 바나나; 원두커피; 오렌지 주스; 방울토마토; 주방 세제; 올리브유; 가염 버터; 녹차; 쌀 5kg; 다크 초콜릿; 키친타월; 탄산수; 스파게티 면; 딸기잼
articles: 사무용 의자; 레이저 프린터 토너; LED 스탠드; 네트워크 스위치 24포트; 복사용지 A4; 철제 선반; 안전 장갑; 벽시계; 라벨 프린터; USB-C 도킹 스테이션; 화이트보드; 서류 캐비닛; 육각 볼트 M8; 포장 테이프; 정수 필터; 수동 펌프
services: 컨설팅; 현장 설치; 소프트웨어 유지보수; 번역; 그래픽 디자인; 직원 교육; 데이터 이전; 장비 대여
details: 2015년 이후 모델용 교체 부품; 강화형; 배송 및 현장 조립 포함; 검정, 2년 보증; 4개 세트; 지난달 견적 기준; 확장 온도 범위, IP65; 재활용 소재
tariff: 전력량 요금(주간); 전력량 요금(야간); 송배전 요금; 기본요금
incomes: 급여; 적금 이체; 주문 환불; 이자
bookings: 월세; 카드 결제 마트; 보험료; 현금 인출; 통신비 자동이체; 헬스장 회비; 주유소; 약국
names: 김민준; 이서연; 박도윤; 최지우; 정하은; 강현우; 윤수빈; 임재현
firms: 한빛상사; 푸른들무역; 동해물산; 미래시스템; 참나무공구; 새벽물류; 은하사무기; 온누리식품; 가람출판
forms: 주식회사; (주); 유한회사
utilities: 새빛전력; 한울에너지; 푸른전기
banks: 한강은행; 새봄저축은행
streets: 중앙로; 역전길; 은행나무길; 세종대로; 항구로; 단풍로; 교회길
cities: 서울특별시 마포구; 부산광역시 해운대구; 대전광역시 유성구; 수원시 팔달구; 전주시 완산구; 강릉시; 제주시
units: 개; 상자; 세트; kg; m
hour: 시간
"""),
    "zh": _lists("""
goods: 全脂牛奶; 全麦面包; 鲜鸡蛋; 切达奶酪; 香蕉; 咖啡粉; 橙汁; 番茄; 洗洁精; 橄榄油; 黄油; 绿茶; 大米 5kg; 黑巧克力; 厨房纸巾; 苏打水; 意大利面; 草莓酱
articles: 办公椅; 激光打印机硒鼓; LED台灯; 24口网络交换机; A4复印纸; 钢制货架; 防护手套; 挂钟; 标签打印机; USB-C扩展坞; 白板; 文件柜; 六角螺栓M8; 封箱胶带; 净水滤芯; 手压泵
services: 咨询服务; 现场安装; 软件维护; 翻译服务; 平面设计; 员工培训; 数据迁移; 设备租赁
details: 2015年后机型通用备件; 加强型; 含送货及现场组装; 黑色，保修两年; 四件套; 按上月报价执行; 宽温型，防护等级IP65; 再生材料
tariff: 电费（峰时）; 电费（谷时）; 输配电费; 基本电费
incomes: 工资; 储蓄转入; 订单退款; 利息
bookings: 房租; 超市刷卡; 保险费; 现金取款; 电话费代扣; 健身会费; 加油站; 药店
names: 王建国; 李秀英; 张伟明; 刘晓燕; 陈思远; 杨雨桐; 赵志强; 周雅琴
firms: 北辰商贸; 蓝海贸易; 和顺实业; 银线科技; 橡树工具; 子午办公用品; 红岩物流; 柳园食品; 松林出版
forms: 有限公司; 股份有限公司; 有限责任公司
utilities: 东方供电; 长江电力服务; 绿源能源
banks: 长河银行; 东山商业银行
streets: 中山路; 车站路; 梧桐街; 人民大道; 滨海路; 枫林路; 文化街
cities: 北京市海淀区; 上海市徐汇区; 杭州市西湖区; 成都市锦江区; 武汉市江汉区; 青岛市市南区; 南京市鼓楼区
units: 个; 箱; 套; 公斤; 米
hour: 小时
"""),
    "bn": _lists("""
goods: তরল দুধ; পাউরুটি; ডিম এক ডজন; পনির; সাগর কলা; গুঁড়া কফি; কমলার রস; টমেটো; থালা ধোয়ার সাবান; সয়াবিন তেল; মাখন; চা পাতা; চিনিগুঁড়া চাল; চকলেট; টিস্যু কাগজ; খাবার পানি; নুডলস; আমের জেলি
articles: অফিস চেয়ার; প্রিন্টারের টোনার; টেবিল ল্যাম্প; নেটওয়ার্ক সুইচ; ফটোকপির কাগজ; স্টিলের তাক; সুরক্ষা দস্তানা; দেয়াল ঘড়ি; লেবেল প্রিন্টার; ডকিং স্টেশন; হোয়াইট বোর্ড; ফাইল ক্যাবিনেট; নাট বল্টু; প্যাকিং টেপ; পানির ফিল্টার; হাত পাম্প
services: পরামর্শ সেবা; স্থাপন কাজ; সফটওয়্যার রক্ষণাবেক্ষণ; অনুবাদ; গ্রাফিক নকশা; কর্মী প্রশিক্ষণ; তথ্য স্থানান্তর; যন্ত্রপাতি ভাড়া
details: নতুন মডেলের খুচরা যন্ত্রাংশ; মজবুত সংস্করণ; পৌঁছানো ও সংযোজন সহ; কালো, দুই বছরের নিশ্চয়তা; চারটির সেট; গত মাসের দর অনুযায়ী; উচ্চ তাপমাত্রা সহনশীল; পুনর্ব্যবহৃত উপাদান
tariff: বিদ্যুৎ (দিন); বিদ্যুৎ (রাত); সঞ্চালন খরচ; ডিমান্ড চার্জ
incomes: বেতন; সঞ্চয় থেকে স্থানান্তর; ফেরত প্রাপ্ত; মুনাফা
bookings: বাড়ি ভাড়া; কার্ডে কেনাকাটা; বীমার কিস্তি; নগদ উত্তোলন; ফোন বিল; সমিতির চাঁদা; জ্বালানি; ঔষধ
names: আব্দুল করিম; ফাতেমা বেগম; সুমন চৌধুরী; নাসরিন আক্তার; রফিকুল ইসলাম; শর্মিলা দাস; মাহমুদ হাসান; তানিয়া রহমান
firms: পদ্মা ট্রেডার্স; মেঘনা সরবরাহ; সোনালী বাণিজ্য; রূপসী সিস্টেমস; বটতলা যন্ত্রপাতি; শাপলা অফিস; যমুনা পরিবহন; নবান্ন খাদ্য; অক্ষর প্রকাশনী
forms: লিমিটেড; অ্যান্ড কোং; এন্টারপ্রাইজ
utilities: আলোকিত বিদ্যুৎ; মেঘনা পাওয়ার; সবুজ শক্তি
banks: গ্রামীণ উন্নয়ন ব্যাংক; পূর্বাচল ব্যাংক
streets: মিরপুর রোড; স্টেশন রোড; ধানমন্ডি সড়ক; নিউ মার্কেট সড়ক; কলেজ রোড; বন্দর সড়ক; মসজিদ গলি
cities: ঢাকা; চট্টগ্রাম; খুলনা; রাজশাহী; সিলেট; বরিশাল; রংপুর
units: টি; বাক্স; সেট; কেজি; মিটার
hour: ঘণ্টা
"""),
}
